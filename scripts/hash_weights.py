"""Write cdedu/weights/hashes.json from the weight files beside it."""

import json

from cdedu.checkpoints import WEIGHTS, sha256
from cdedu.files import replacing

if __name__ == "__main__":
    hashes = {path.stem: sha256(path) for path in sorted(WEIGHTS.glob("*.safetensors"))}
    with replacing(WEIGHTS / "hashes.json") as temporary:
        temporary.write_text(json.dumps(hashes, indent=1) + "\n")
