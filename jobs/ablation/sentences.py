"""What an ablation says in sentences: each arm with its controls, the reference, the instrument, and its power."""

from __future__ import annotations

from jobs.ablation.findings import Statistics, seeds_told, verdict
from jobs.ablation.words import at, joined, points, size, span


def arm_words(statistics: Statistics, arm: str, demos: int, *, brief: bool = False) -> str:
    """An arm against the best baseline, and what its controls say of that."""
    against = statistics.comparison(arm, None, demos)
    return ". ".join([verdict(against, brief=brief), *control_words(statistics, arm, demos)])


def control_words(statistics: Statistics, arm: str, demos: int) -> list[str]:
    """What its controls say of an arm, which is named elsewhere. Whatever their number, nothing is corrected: all of them
    must be beaten."""
    groups: dict[str, list[str]] = {}
    for c in statistics.asked("control", demos, arm):
        alone = "".join(f", {limit}" for limit in seeds_told(c))
        if c.overall is None:
            groups.setdefault("No seed ran to its end in both it and", []).append(c.reference)
        elif c.shown == "lifts":
            groups.setdefault("It beats", []).append(f"{c.reference} by {size(c.overall)}{alone}")
        elif c.shown == "lowers":
            groups.setdefault("It is beaten by", []).append(f"{c.reference} by {size(c.overall)}{alone}")
        else:
            groups.setdefault("It is not told from", []).append(f"{c.reference} ({span(c.overall)}, {c.shown}{alone})")
    said = [f"{lead} its control{'s' if len(names) > 1 else ''} {joined(names)}" for lead, names in groups.items()]
    if lacking := statistics.lacking(arm, demos):
        said.append(f"Its control{'s' if len(lacking) > 1 else ''} {joined(lacking)} had no run")
    return said


def reference_words(statistics: Statistics) -> str:
    """Which baseline is the best at each number of demonstrations, and what choosing it does."""
    if len(statistics.names("baseline")) < 2:
        return f"Arms are compared with {' '.join(set(statistics.references.values()))}, the only baseline."
    parts = [f"{at(demos)} {name}" for demos, name in statistics.references.items()]
    return (
        f"Arms are compared with the best baseline, {', '.join(parts)}. It is chosen by the same runs, so that it is rather "
        "too good by luck than too bad: the comparison is conservative."
    )


def instrument_words(statistics: Statistics) -> str:
    """Whether the positive controls were shown: the run could then have shown a lift of their kind."""
    positives = statistics.names("positive")
    if not positives:
        return "No positive control was run, so that it is not known whether this run can show a lift at all."
    parts = []
    for demos, reference in statistics.references.items():
        asked = [c for c in statistics.asked("instrument", demos) if c.arm in positives]
        if not asked:
            parts.append(f"{at(demos)} no positive control was run")
            continue
        shown = [c for c in asked if c.shown == "lifts"]
        words = [f"{c.arm} {span(c.overall) if c.overall else 'has no full seed in common'}" for c in asked]
        told = "are shown" if len(shown) == len(asked) else "are shown in part" if shown else "are not shown"
        parts.append(f"{at(demos)} the positive controls {told} over {reference} ({', '.join(words)})")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def power_words(statistics: Statistics) -> list[str]:
    """For each number of demonstrations: which lift of an arm over the best baseline this run could have detected."""
    said = []
    for demos, reference in statistics.references.items():
        lifts = statistics.asked("lift", demos)
        asked = [c for c in lifts if c.detectable is not None]
        if not asked:
            continue
        reaches = sorted(c.detectable or 0.0 for c in asked)
        many = max(len(c.seeds) for c in asked)
        lift = points(statistics.lift)
        least, most = points(reaches[0]), points(reaches[-1]) if reaches[-1] <= 1 else "more than all"
        wide = (
            "no true lift"
            if reaches[0] > 1
            else f"a true lift of {least if least == most else f'{least} to {most}'} points"
        )
        counted = f"{many} {'replicate' if statistics.design == 'transfer' else 'seed'}{'s' if many > 1 else ''}"
        text = f"{at(demos).capitalize()}, {counted}: {wide} over {reference} could have been detected (80% power, two-sided 5%)"
        blunt = [c for c in asked if (c.detectable or 0.0) > statistics.lift]
        if blunt:
            text += f"; too blunt for the {lift} points looked for: {joined([c.arm for c in blunt])}"
            needed = {c.arm: c.needed for c in blunt if c.needed is not None}
            if needed:
                rest = (
                    "" if len(needed) == len(blunt) else f" for {joined(list(needed))}, of the others it is not known"
                )
                text += f" (about {max(needed.values())} replicates would do{rest})"
        else:
            text += f"; the {lift} points looked for are within reach of every arm"
        if lost := [c.arm for c in lifts if c not in asked]:
            text += f"{' but' if not blunt else '; nothing is known of'} {joined(lost)}, without a full run in common"
        said.append(text + ".")
    return said
