"""Why a node does not come up, in plain words: rules over its timeline (docs/diagnosis.md)."""

from server.diagnosis.case import FarmFacts
from server.diagnosis.diagnose import RULES, diagnose
from server.diagnosis.expectation import EXPECTATIONS, Expectation
from server.diagnosis.rule import Finding, Rule, Severity

__all__ = [
    "EXPECTATIONS",
    "RULES",
    "Expectation",
    "FarmFacts",
    "Finding",
    "Rule",
    "Severity",
    "diagnose",
]
