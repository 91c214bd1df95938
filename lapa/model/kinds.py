"""Parts of the latent action model that are chosen by name: their names, and the classes behind them.

A class of giza's is named here by where it is and imported when it is first built, so that a command's help loads no torch.
"""

from __future__ import annotations

import pkgutil
from typing import Any

from corpora.store.own_modules import VARIABLE, load_own_modules
from corpora.store.told import nearest


class Registry:
    """Classes of one kind of part by name; `register` adds one of your own."""

    def __init__(self, field: str, module: str, built_in: str) -> None:
        """`field`: the configuration's field that chooses; `built_in`: giza's own, "name=Class" of `module`, or
        "name=module:Class", between spaces."""
        self.field, self._module = field, module
        self._built_in = dict(word.split("=") for word in built_in.split())
        self._registered: dict[str, type] = {}

    @property
    def names(self) -> list[str]:
        return [*self._built_in, *self._registered]

    def register(self, name: str, cls: type) -> None:
        """Makes `cls` known as `name`; once more replaces it. Raises ValueError for a name of giza's own."""
        if name in self._built_in:
            raise ValueError(f"{self.field} '{name}' is giza's own: register another name")
        self._registered[name] = cls

    def check(self, name: str) -> None:
        """Raises ValueError for an unknown name."""
        if name not in self.names:
            load_own_modules()  # of a process that the user did not start
        if name not in self.names:
            near = nearest(name, self.names)
            hint = f" Did you mean '{near}'?" if near else ""
            known = f"choose one of {', '.join(self.names)}, or register it in a module that {VARIABLE} names."
            raise ValueError(f"{self.field} '{name}': {known}{hint}")

    def __getitem__(self, name: str) -> Any:
        """The class. Raises ValueError for an unknown name."""
        self.check(name)
        if name in self._registered:
            return self._registered[name]
        where = self._built_in[name]
        return pkgutil.resolve_name(where if ":" in where else f"{self._module}:{where}")


QUANTISERS = Registry(
    "quantiser.kind",
    "lapa.model.quantisers",
    "nsvq=NoiseSubstitutionQuantiser vq=VectorQuantiser vqvae=StraightThroughQuantiser rvq=ResidualQuantiser "
    "fsq=FiniteScalarQuantiser kl=KlBottleneck gaussian=GaussianBottleneck none=NoBottleneck",
)
"""Subclasses of `lapa.model.quantiser.Quantiser`."""
WAYS_IN = Registry(
    "input",
    "lapa.model.encoder",
    "both=Both difference=Difference como=Como change=Change additive=Additive motion=Motion "
    "lapa=lapa.model.lapa_parts:PooledDifference action_token=lapa.model.action_token:ActionToken "
    "task_tokens=lapa.model.task_tokens:TaskTokens",
)
"""Subclasses of `lapa.model.encoder.WayIn`."""
POOLS = Registry(
    "pool",
    "lapa.model.pools",
    "flatten=FlattenPool conv=ConvPool queries=QueryPool keypoints=KeypointPool lapa=lapa.model.lapa_parts:LapaPool",
)
"""Subclasses of `lapa.model.pools.Pool`."""
BLOCKS = Registry("blocks", "lapa.model.attention", "plain=Transformer lapa=lapa.model.lapa_parts:LapaTransformer")
"""Subclasses of `lapa.model.attention.Transformer`."""
CONDITIONS = Registry(
    "condition",
    "lapa.model.decoder",
    "add=AddedLatent cross=AttendedLatent prepend=PrependedLatent lapa=lapa.model.lapa_parts:TransposedLatent "
    "broadcast=lapa.model.action_token:BroadcastLatent task_tokens=lapa.model.task_tokens:TaskTokensInFront",
)
"""Subclasses of `lapa.model.decoder.FrameDecoder`."""
