"""A policy server for Isaac-GR00T's clients (ZMQ and msgpack), and the dual-rate runner that measures its two systems."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from corpora.store.inputs import READ, READ_OR_HUB, ROBOT
from jobs.cli import parse
from jobs.progress import at_service

if TYPE_CHECKING:
    from vla.policy import Policy
    from vla.serving.dual_rate import DualRateReport, Moment

log = logging.getLogger(__name__)

TOKEN_VARIABLE = "GIZA_API_TOKEN"


@dataclass(frozen=True)
class ServeConfig:
    """Serve a policy to one robot. Ctrl+C ends it."""

    policy: str = field(metadata=READ_OR_HUB)
    """Run folder of giza pretrain or giza ground, or a policy's name on the hub."""
    embodiment: str = field(metadata=ROBOT)
    """Robot that it is to act for; the policy was trained on it."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in (there is no encryption: prefer a tunnel)."""
    port: int = 5555
    """0: any that is free; it is printed."""
    token: str | None = None
    """What clients must send as api_token. Better in the environment as GIZA_API_TOKEN: a command line can be read by all."""
    open_without_token: bool = False
    """Let other machines in without a token."""
    max_message_mb: float = 64.0
    """Larger requests are refused, in 10^6 bytes."""
    allow_kill: bool = False
    """Let a client end the server."""
    modality: Path | None = field(default=None, metadata=READ)
    """A modality.json with the names of cameras and parts; default: the policy's own."""
    protocol: Literal["n1.5", "n1.6", "n1.7"] = "n1.6"
    """Generation of clients that get_modality_config is written for: clients of n1.6 and n1.7 understand either, those of n1.5 their
    own alone. Observations of all are understood."""
    max_batch: int = 16
    """Observations that one request may bring."""
    fit: Literal["stretch", "crop"] | None = None
    """How images of another size become square; default: as in training, and stretch where the policy does not know it."""
    device: str = ""
    """cpu, cuda, cuda:1, ...; empty: cuda where there is one."""
    seed: int = 0
    """Of the noise that action chunks are made from; each client has its own, from the beginning on."""
    dual_rate_seconds: float = 0.0
    """Instead of serving, run both systems for so long on a made-up observation, and print rates and staleness."""
    think_hz: float = 10.0
    """With --dual-rate-seconds: thoughts of System 2 each second."""
    chunk_hz: float = 30.0
    """With --dual-rate-seconds: chunks of System 1 each second."""
    act_hz: float = 120.0
    """With --dual-rate-seconds: actions each second."""
    stale_s: float = 2.0
    """With --dual-rate-seconds: end where the newest actions were made of what was seen longer ago."""

    def __post_init__(self) -> None:
        if self.dual_rate_seconds < 0:
            raise ValueError(f"dual_rate_seconds {self.dual_rate_seconds:g}: must be at least 0")
        if self.max_batch < 1:
            raise ValueError(f"max_batch {self.max_batch}: must be at least 1 observation")


def run(config: ServeConfig) -> dict[str, Any]:
    """Serves until it is ended, or measures; returns the counts of requests, or what was measured.

    Raises ValueError for a policy that is none, a robot that it does not know, and an address that is taken.
    """
    import torch

    from vla.checkpoint import load_policy

    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    policy = load_policy(config.policy).to(device).eval()
    policy.embodiment(config.embodiment)  # a wrong name is refused first of all
    if config.dual_rate_seconds:
        return measure_dual_rate(policy, config)
    return serve(policy, config)


def serve(policy: Policy, config: ServeConfig) -> dict[str, Any]:
    """Serves `policy` until Ctrl+C, or until a client ends it; returns how many requests of each kind were answered."""
    from vla.serving.groot import ServedPolicy, server_of
    from vla.serving.server import ServerConfig

    settings = ServerConfig(
        host=config.host,
        port=config.port,
        api_token=config.token or os.environ.get(TOKEN_VARIABLE) or None,
        open_without_token=config.open_without_token,
        max_message_mb=config.max_message_mb,
        allow_kill=config.allow_kill,
    )
    server = server_of(
        policy,
        config.embodiment,
        settings,
        modality=_modality(config.modality),
        fit=config.fit,
        dialect=config.protocol,
        seed=config.seed,
        max_batch=config.max_batch,
    )
    served = server.served
    assert isinstance(served, ServedPolicy)
    layout = served.layout
    print(f"serving {config.policy} as {config.embodiment} on {server.address}")
    print(f"  cameras  {', '.join(layout.cameras)}")
    for camera, view in served.views.views.items():
        print(f"  view     {camera}: {view}; send mask.{camera} and point.{camera} with its pictures")
    print(f"  state    {', '.join(f'{part.name} ({part.width})' for part in layout.state) or 'none'}")
    print(f"  action   {', '.join(f'{part.name} ({part.width})' for part in layout.action)}")
    print(f"  chunk    {policy.config.horizon} steps of {served.step_s:g} s", flush=True)
    try:
        with at_service():
            server.serve()
    except KeyboardInterrupt:
        print("stopped")
    counts = dict(server.counts)
    print(json.dumps(counts))
    return counts


def measure_dual_rate(policy: Policy, config: ServeConfig) -> dict[str, Any]:
    """Runs both systems on a made-up observation; prints a table and JSON, and returns what the JSON says."""
    from vla.serving.dual_rate import DualRateRunner

    observation = made_up_observation(policy, config.embodiment, seed=config.seed)
    runner = DualRateRunner(
        policy,
        lambda: observation,
        embodiment=config.embodiment,
        think_hz=config.think_hz,
        chunk_hz=config.chunk_hz,
        act_hz=config.act_hz,
        stale_s=config.stale_s,
        seed=config.seed,
    )
    report = runner.run(lambda action, now: None, seconds=config.dual_rate_seconds)
    _print_report(report, title=f"{config.policy} as {config.embodiment}")
    summary = report.to_json()
    print(json.dumps(summary))
    return summary


def made_up_observation(policy: Policy, embodiment: str, *, seed: int) -> Moment:
    """Noise in the shapes of the policy's robot: images of every camera, and a state of zeros."""
    import numpy as np
    import torch

    from vla.serving.dual_rate import Moment

    facts, config = policy.embodiment(embodiment), policy.config
    shape = (len(facts.cameras), len(config.history_s))
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(
        0, 256, (*shape, 3, config.image_size, config.image_size), generator=generator, dtype=torch.uint8
    )
    state_dim = facts.action_space.state_dim
    state = np.zeros(state_dim, np.float32) if state_dim else None
    return Moment(images, torch.ones(shape, dtype=torch.bool), "pick up the bottle", state)


def _modality(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--modality {path}: cannot be read ({error})") from error
    if not isinstance(record, dict):
        raise ValueError(f"--modality {path}: must hold a map with video, state and action")
    return record


def _print_report(report: DualRateReport, *, title: str) -> None:
    from rich.console import Console

    from jobs.console import numbers_table

    console = Console()
    rates = numbers_table(title, ["rate"], ("wanted", "measured", "missed"))
    names = {"think": "System 2 (Hz)", "chunk": "System 1 chunks (Hz)", "act": "actions (Hz)"}
    for key, name in names.items():
        rates.add_row(name, f"{report.wanted_hz[key]:g}", f"{report.measured_hz[key]:.1f}", str(report.missed[key]))
    console.print(rates)
    spreads = numbers_table("milliseconds", [""], ("mean", "p95", "max"))
    for name, spread in (
        ("age of the features behind an action", report.feature_age),
        ("age of the state behind an action", report.action_age),
        ("System 2, one thought", report.think_duration),
        ("System 1, one chunk", report.chunk_duration),
        ("action sent after it was due", report.lateness),
    ):
        spreads.add_row(name, *(f"{1000 * value:.1f}" for value in (spread.mean_s, spread.p95_s, spread.max_s)))
    console.print(spreads)
    console.print(
        f"{report.actions} actions in {report.seconds:.2f} s, the first after {1000 * report.first_action_s:.0f} ms; "
        f"{report.exhausted} beyond the end of their chunk"
    )


def main(argv: Sequence[str]) -> None:
    """`giza serve`."""
    run(parse(ServeConfig, argv, job="serve"))
