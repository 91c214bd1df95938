"""Where video comes from; one file a kind. `register` makes a kind of one's own known: see `SourceKind`."""

from corpora.sources.source import File, Source, SourceDefaults, SourceKind, TarMember, register

__all__ = ["File", "Source", "SourceDefaults", "SourceKind", "TarMember", "register"]
