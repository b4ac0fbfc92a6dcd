"""Write ``golden.json`` anew, on purpose: ``python -m tests.unit.regenerate_golden``."""

import json

from tests.unit.test_golden import FILE, METHODS, trajectory

if __name__ == "__main__":
    FILE.write_text(json.dumps({name: trajectory(name) for name in METHODS}, indent=1) + "\n")
