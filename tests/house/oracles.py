"""What giza makes of the sample corpus, as fingerprints: the oracle that a change of structure must not move.

`python tests/house/oracles.py` makes everything again by the `giza` command (four minutes with the ablation, two with
`--no-ablation`) and prints what differs from oracles.json, to the last bit; `--write` stores it. It is run by hand, on the
machine that wrote oracles.json: another processor may differ in the last bits. An oracle changes only for a named defect,
in a commit of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
STORED = Path(__file__).with_name("oracles.json")
SAMPLE = ROOT / "corpora" / "sample"
ABLATION = (
    "--recipe joint_demo --tasks drawer-open --arms robot-only bc human-latent human-flare --demos 1 --seeds 0 --parallel 1 "
    "--data.human-clips 4 --data.robot-episodes 6 --data.lam-steps 3 --budget.pretrain-steps 0 --budget.ground-steps 3 "
    "--budget.batch-size 4 --budget.starts 1 --budget.max-steps 16"
)
PYRAMID = """
[[member]]
name = "hands"
tier = "human"
label = "latent"
corpus = "corpus"
latents = "latents"

[[member]]
name = "robot"
tier = "robot"
label = "action"
dataset = "{sample}/robot_still"
embodiment = "sawyer"
"""
TIMES = re.compile(
    r"second|minute|_per_s$|wait|wall|memory|date|time|^out$|^corpus$|^host|version|hash|git|argv|provenance"
)


def giza(words: str, folder: Path) -> None:
    """One job, by the command; raises where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GIZA_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "jobs.cli", *words.split()]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)
    if done.returncode:
        raise RuntimeError(f"giza {words}: status {done.returncode}\n{done.stderr[-3000:]}")


def of_bytes(*paths: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(paths))).hexdigest()[:16]


def of_numbers(value: Any) -> dict[str, Any]:
    """Exact digest, and the figures that another machine comes close to."""
    array = np.ascontiguousarray(np.asarray(value))
    digest = hashlib.sha256(str((array.shape, array.dtype)).encode() + array.tobytes()).hexdigest()[:16]
    flat = array.astype(np.float64).ravel()
    return {"digest": digest, "mean": float(flat.mean()), "rms": float(np.sqrt(np.square(flat).mean()))}


def of_weights(path: Path) -> dict[str, Any]:
    """Of all tensors, whatever they are called: in the order of their shapes and contents."""
    from safetensors.numpy import load_file

    tensors = sorted(load_file(path).values(), key=lambda t: (t.shape, t.tobytes()))
    floats = [t.astype(np.float32).ravel() for t in tensors if t.dtype.kind == "f"]
    return of_numbers(np.concatenate(floats))


def of_table(folder: Path) -> dict[str, Any]:
    """The vectors of all rows of Parquet parts, in order."""
    import pyarrow.parquet as pq

    found: dict[str, Any] = {}
    tables = [pq.read_table(path) for path in sorted(folder.rglob("*.parquet"))]
    found["rows"] = sum(table.num_rows for table in tables)
    for name in ("latent", "codes", "quantized", "t_s", "gap_s"):
        if name in tables[0].column_names:
            found[name] = of_numbers(np.asarray([row for t in tables for row in t.column(name).to_pylist()]))
    return found


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if not TIMES.search(k)}
    if isinstance(value, list):
        return [without_times(entry) for entry in value]
    return value


def of_json(path: Path, *keys: str) -> Any:
    value = json.loads(path.read_text("utf-8"))
    return without_times({key: value[key] for key in keys} if keys else value)


def make(folder: Path, *, ablation: bool) -> dict[str, Any]:
    """Everything, in `folder`."""
    found: dict[str, Any] = {}
    giza(f"ingest {SAMPLE}/hand_still {SAMPLE}/robot_moving --out corpus --workers 2", folder)
    shards = list((folder / "corpus").rglob("*.tar"))
    found["ingest"] = {"shards": of_bytes(*shards), "manifest": of_bytes(*(folder / "corpus").glob("*.parquet"))}
    giza("train-lam --corpus corpus --recipe debug --steps 20 --out lam", folder)
    found["train-lam"] = of_weights(folder / "lam" / "model.safetensors")
    giza("extract --lam lam --corpus corpus --out latents", folder)
    found["extract"] = of_table(folder / "latents")
    giza("report --lam lam --corpus corpus --latents latents --out report", folder)
    found["report"] = of_json(folder / "report" / "report.json")
    (folder / "pyramid.toml").write_text(PYRAMID.format(sample=SAMPLE))
    giza("pretrain --pyramid pyramid.toml --recipe debug --steps 20 --out base --anyway", folder)
    found["pretrain"] = of_weights(folder / "base" / "model.safetensors")
    giza(f"ground --data {SAMPLE}/robot_still --recipe debug --steps 20 --demos 3 --out policy", folder)
    found["ground"] = of_weights(folder / "policy" / "model.safetensors")
    giza(f"ground --data {SAMPLE}/robot_still --recipe bc --steps 5 --demos 3 --out bc", folder)
    found["bc"] = of_weights(folder / "bc" / "model.safetensors")
    if ablation:
        giza(f"ablate --out ablation {ABLATION}", folder)
        found["ablation"] = of_json(folder / "ablation" / "ablation.json")
    return found


def differences(mine: Any, stored: Any, at: str = "") -> list[str]:
    """Where two records differ, to the last bit."""
    if isinstance(mine, dict) and isinstance(stored, dict):
        return [
            line
            for key in sorted({*mine, *stored})
            for line in differences(mine.get(key, "absent"), stored.get(key, "absent"), f"{at}/{key}")
        ]
    if isinstance(mine, list) and isinstance(stored, list) and len(mine) == len(stored):
        return [
            line for n, pair in enumerate(zip(mine, stored, strict=True)) for line in differences(*pair, f"{at}/{n}")
        ]
    return [] if mine == stored else [f"{at}: {stored} was stored, {mine} came out"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        record = make(Path(place), ablation="--no-ablation" not in sys.argv)
    if "--write" in sys.argv:
        STORED.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        sys.exit(0)
    before = json.loads(STORED.read_text("utf-8"))
    lines = differences(
        record, before if "ablation" in record else {k: v for k, v in before.items() if k != "ablation"}
    )
    print("\n".join(lines) or "all as stored")
    sys.exit(1 if lines else 0)
