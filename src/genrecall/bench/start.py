"""A new process to its first answer: ``python -m genrecall.bench.start '{"shape": …}'`` prints where its time went."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from genrecall.hardware import spare_workspace


def main(options: dict[str, Any]) -> dict[str, float]:
    """Seconds of each step, ``first_answer`` from the start of this function, and of the second answer."""
    begun = time.perf_counter()
    from genrecall.bench.rig import Setup, open_rig
    from genrecall.hardware import pick_device

    device = pick_device(options["device"])
    imported = time.perf_counter()
    setup = Setup(**{name: options[name] for name in ("shape", "precision", "levels", "codes", "items")})
    rig = open_rig(setup, device, 0)
    opened = time.perf_counter()
    make = rig.maker(options["beam"], options["input"])
    rig.engine.generate([make(0)])
    first = time.perf_counter()
    rig.engine.generate([make(1)])
    second = time.perf_counter()
    warm_up_s = rig.engine.warm_up([make(0)], batches=tuple(options["batches"]))
    return {
        "imports_s": imported - begun,
        "opening_s": opened - imported,
        "first_answer_s": first - opened,
        "second_answer_s": second - first,
        "total_s": first - begun,
        "warm_up_s": warm_up_s,
    }


if __name__ == "__main__":
    spare_workspace()
    print(json.dumps(main(json.loads(sys.argv[1]))))
