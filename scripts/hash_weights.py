"""Write cdedu/weights/hashes.json from the weight files beside it."""

from cdedu.checkpoints import write_hashes

if __name__ == "__main__":
    write_hashes()
