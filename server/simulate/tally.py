"""What one process of the crew has seen so far; sent to the parent as a whole."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Result:
    """One node's boot. Seconds on the clock that all processes share; times: phase -> seconds
    in it. error: "" when all of it came, and right."""

    number: int
    started: float
    ended: float
    times: dict[str, float]
    bytes: int
    error: str = ""
    phase: str = ""
    retries: int = 0


@dataclass
class Tally:
    """phases: phase -> nodes in it now. cpu: seconds that this process has used."""

    phases: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    results: list[Result] = field(default_factory=list)
    checked_files: int = 0
    checked_reads: int = 0
    cpu: float = 0.0
    pid: int = 0
    over: bool = False
