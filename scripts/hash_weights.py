"""Write cdedu/weights/hashes.json from the weight files beside it."""

import json
import os

from cdedu.checkpoints import WEIGHTS, sha256

if __name__ == "__main__":
    hashes = {path.stem: sha256(path) for path in sorted(WEIGHTS.glob("*.safetensors"))}
    temporary = WEIGHTS / ".hashes.tmp"
    temporary.write_text(json.dumps(hashes, indent=1) + "\n")
    os.replace(temporary, WEIGHTS / "hashes.json")
