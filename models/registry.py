"""Names of systems and metrics -> where they are, imported only when used."""

SYSTEMS: dict[str, str] = {}
METRICS: dict[str, str] = {}
