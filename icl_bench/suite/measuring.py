"""The `measure` and `defaults` sections of a suite: probes, their settings, heads from where."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from icl_bench.errors import SettingsError, nearest
from icl_bench.probes import PROBES, Probe, get_probe, known_probe, probe_names
from icl_bench.probes.design.sequential import NOT_SEQUENTIAL
from icl_bench.probes.design.settings import HEAD_SOURCES, StrictSettings
from icl_bench.suite.document import PathKey
from icl_bench.suite.doubts import explain_never, explain_support, explain_unchosen
from icl_bench.suite.error_messages import Finding, keys_at, validate
from icl_bench.suite.notes import Notes
from icl_bench.suite.problems import show_value
from icl_bench.suite.reach import explain_unreachable
from icl_bench.suite.specs import CheckSpec, MeasureSpec, QuizSpec, Support


class Measurements:
    """Every measurement of a suite, built from its entry and the suite's defaults.

    Args:
        notes: the document, and where problems go.
        folder: that of the suite's file, which paths in settings start from; those that it takes
            from another suite start from that one's.
    """

    def __init__(self, notes: Notes, folder: Path) -> None:
        self.notes, self.folder = notes, folder
        self.entries: dict[str, Any] = notes.section("measure", dict)
        self.defaults: dict[str, Any] = notes.section("defaults", dict)
        self.specs: dict[str, MeasureSpec] = {}
        self.probes: dict[str, Probe | None] = {}
        """Name -> probe, also of measurements with other mistakes; None where it is unknown."""
        self._check_defaults()
        for name, entry in self.entries.items():
            self._build(name, entry)
        for name in self.entries:
            self._check_source(name)
            self._check_sources(name)

    def reserve_question(self, identity: Any) -> None:
        """Make a quiz item's measurement known by name, whatever else is wrong with the item."""
        self.probes.setdefault(f"quiz/{identity}", None)

    def add_question(self, index: int, entry: dict[str, Any]) -> str:
        """Make the measurement for a quiz item that the model answers.

        Args:
            index: its place in the `quiz` list.
            entry: id, prompt, choices and answer, already validated.

        Returns:
            The measurement's name.
        """
        name = f"quiz/{entry['id']}"
        item = {key: entry[key] for key in ("prompt", "choices", "answer")}
        self._settle(name, get_probe("choice"), {"items": [item]}, ("quiz", index))
        return name

    def probe_of(self, name: str, path: PathKey) -> Probe | None:
        """Return the probe of the measurement `name`, noting at `path` that there is none."""
        if name not in self.probes and not self.notes.blame_removal(name, path):
            hint = nearest(name, self.probes) if self.probes else "'measure' is empty"
            self.notes.add(path, f"no measurement {name!r} in this suite; {hint}")
        return self.probes.get(name)

    def check_metric(self, on: str, metric: str, path: PathKey) -> None:
        """Note problems with the `on` and `metric` of the entry at `path`."""
        self.probe_of(on, (*path, "on"))
        self.check_name(on, metric, (*path, "metric"))

    def check_name(self, on: str, metric: str, path: PathKey) -> None:
        """Note at `path` that the probe of the measurement `on` has no such metric."""
        probe = self.probes.get(on)
        if probe is not None and metric not in probe.metrics:
            hint = nearest(metric, probe.metrics)
            self.notes.add(path, f"probe {probe.name!r} has no metric {metric!r}; {hint}")

    def check_reach(self, on: str, metric: str, rule: CheckSpec | Support, path: PathKey) -> None:
        """Note at `path` that no data could pass a rule for a metric of the measurement `on`."""
        probe, spec = self.probes.get(on), self.specs.get(on)
        if probe is None or spec is None or metric not in probe.metrics:
            return  # said elsewhere
        why = explain_unreachable(metric, probe.metrics[metric], spec.settings, rule)
        if why is not None:
            self.notes.add(path, why)
        elif isinstance(rule, CheckSpec) and (
            never := explain_never(metric, probe.metrics[metric], spec.settings, rule)
        ):
            self.notes.warn(path, never)

    def check_supports(self, item: QuizSpec, path: PathKey) -> None:
        """Warn at `path`, a quiz item, of options that nothing ever speaks for."""
        probe, spec = self.probes.get(item.on), self.specs.get(item.on)
        if probe is None or spec is None or item.metric not in probe.metrics:
            return  # said elsewhere
        info = probe.metrics[item.metric]
        whys = [
            explain_support(item.metric, info, spec.settings, item.supports, place)
            or explain_unreachable(item.metric, info, spec.settings, support)
            for place, support in enumerate(item.supports)
        ]
        if all(whys):
            self.notes.warn(path, f"no option can ever be supported: {whys[0]}")
            return
        for option in dict.fromkeys(support.option for support in item.supports):
            own = [n for n, support in enumerate(item.supports) if support.option == option]
            if all(whys[n] for n in own):
                message = f"option {option!r} can never be supported: {whys[own[0]]}"
                self.notes.warn((*path, "supports", own[0]), message)

    def _check_defaults(self) -> None:
        asked = (entry.get("probe") for entry in self.entries.values() if isinstance(entry, dict))
        names = dict.fromkeys([*PROBES, *(name for name in asked if isinstance(name, str))])
        probes = [probe for name in names if (probe := known_probe(name))]
        known = {key: [p for p in probes if key in keys_at(p.settings)] for key in self.defaults}
        every = set().union(*(keys_at(probe.settings) for probe in probes))
        for key, having in known.items():
            if not having:
                message = f"no probe has the setting {key!r}; {nearest(key, every)}"
                self.notes.add(("defaults", key), message, at_key=True)
                continue
            # A value that suits no probe is wrong even where no measurement takes it up.
            wrong = [self._validate_default(probe, key) for probe in having]
            if all(wrong):
                self._report(wrong[0], (), own=())

    def _validate_default(self, probe: Probe, key: str) -> list[Finding]:
        _, findings = validate(probe.settings, {key: self.defaults[key]})
        return [one for one in findings if one.path[:1] == (key,)]

    def _build(self, name: str, entry: Any) -> None:
        path = ("measure", name)
        self.probes[name] = None
        if not isinstance(entry, dict):
            return  # said by the schema of the whole file
        settings = {key: value for key, value in entry.items() if key != "probe"}
        if "probe" not in entry:
            self.notes.add(path, f"'probe' is missing; {nearest('', probe_names())}")
            return
        if not isinstance(entry["probe"], str):
            message = (
                f"probe {show_value(entry['probe'])} is not a name; {nearest('', probe_names())}"
            )
            self.notes.add((*path, "probe"), message)
            return
        try:
            probe = get_probe(entry["probe"])
        except SettingsError as error:
            self.notes.add((*path, "probe"), str(error))
            return
        self.probes[name] = probe
        self._settle(name, probe, settings, path)

    def _settle(self, name: str, probe: Probe, own: dict[str, Any], path: PathKey) -> None:
        """Validate a measurement's own settings together with the suite's defaults."""
        fitting = keys_at(probe.settings)
        merged = {key: value for key, value in self.defaults.items() if key in fitting} | own
        self.probes[name] = probe
        settings, findings = validate(probe.settings, merged, extra_keys=("probe",))
        if isinstance(settings, StrictSettings):
            try:
                settings = settings.located(self._folder_of("text", own, path))
            except SettingsError as error:
                settings, findings = None, [Finding(("text",), False, str(error))]
        self._report(_explain_until(probe, findings), path, own)
        if settings is not None:
            self.specs[name] = MeasureSpec(name, probe.name, settings, frozenset(merged))

    def _folder_of(self, key: str, own: dict[str, Any], path: PathKey) -> Path:
        """Return the folder of the file that gives a setting of the measurement at `path`."""
        place = (*path, key) if key in own else ("defaults", key)
        file = self.notes.document.file_of(place)
        return file.parent if file else self.folder

    def _report(self, findings: list[Finding], path: PathKey, own: Any) -> None:
        for one in findings:
            inherited = one.path[:1] and one.path[0] not in own and one.path[0] in self.defaults
            base: PathKey = ("defaults",) if inherited else path
            self.notes.add((*base, *one.path), one.message, one.at_key)

    def _check_source(self, name: str) -> None:
        """Check that heads are taken from measurements of this suite that score heads."""
        entry = self.entries[name]
        own = isinstance(entry, dict) and "heads" in entry
        section: PathKey = ("measure", name) if own else ("defaults",)
        for path, rule in _rules(self._heads_of(name), (*section, "heads")):
            self._check_rule(name, rule, path)

    def _check_rule(self, name: str, heads: dict[str, Any], path: PathKey) -> None:
        """Check one of the rules by which a measurement chooses its heads."""
        source = heads.get("from")
        if not isinstance(source, str):
            return
        origin = self.probe_of(source, (*path, "from"))
        if origin is None:
            return
        if origin.name not in HEAD_SOURCES:
            *some, last = map(repr, HEAD_SOURCES)
            message = (
                f"heads come from an {', '.join(some)} or {last} measurement; "
                f"{source!r} is {origin.name!r}"
            )
            self.notes.add((*path, "from"), message)
        elif self._is_circular(name, source):
            self.notes.add((*path, "from"), f"the heads of {name!r} would come from itself")
        else:
            self._check_scores(heads, source, origin, path)

    def _heads_of(self, name: str) -> dict[str, Any]:
        """Return how a measurement chooses its heads; nothing where it does not, or lists them."""
        probe, entry = self.probes.get(name), self.entries.get(name)
        if probe is None or not probe.reads_heads or not isinstance(entry, dict):
            return {}
        heads = (entry if "heads" in entry else self.defaults).get("heads")
        return heads if isinstance(heads, dict) else {}

    def _is_circular(self, name: str, source: str) -> bool:
        """Whether the heads of a measurement are chosen from itself, by way of a source of them."""
        seen: set[str] = set()
        ahead = [source]
        while ahead:
            one = ahead.pop()
            if one == name:
                return True
            if one not in seen:
                seen.add(one)
                rules = [rule for _, rule in _rules(self._heads_of(one), ())]
                ahead += [rule["from"] for rule in rules if isinstance(rule.get("from"), str)]
        return False

    def _check_scores(
        self, heads: dict[str, Any], source: str, origin: Probe, path: PathKey
    ) -> None:
        """Check that the scores to choose by are those of the probe that heads come from."""
        where = heads.get("where")
        asked: list[tuple[Any, PathKey, bool]] = [(heads.get("by"), (*path, "by"), False)]
        if isinstance(where, dict):
            asked += [(score, (*path, "where", score), True) for score in where]
        known = HEAD_SOURCES[origin.name]
        every = {score for some in HEAD_SOURCES.values() for score in some}
        for score, bound in where.items() if isinstance(where, dict) else ():
            if isinstance(bound, dict) and (why := explain_unchosen(score, bound)):
                self.notes.warn((*path, "where", score), why)
        for score, place, at_key in asked:
            if isinstance(score, str) and score in every and score not in known:
                message = f"{source!r} is {origin.name!r}, which has no score {score!r} of heads"
                self.notes.add(place, f"{message}; {nearest(score, known)}", at_key)

    def _check_sources(self, name: str) -> None:
        """Check that what a series probe reads are measurements of this suite, of its kinds."""
        probe = self.probes[name]
        if probe is None or not probe.is_series or name not in self.specs:
            return
        settings: Any = self.specs[name].settings
        for role, source in settings.sources.items():
            own = role in self.entries[name]
            path: PathKey = ("measure", name, role) if own else ("defaults", role)
            origin = self.probe_of(source, path)
            wanted = probe.sources.get(role)
            if origin is None:
                continue
            if origin.is_series:
                message = f"{source!r} is made from a whole series; name what is measured at a step"
            elif wanted not in (None, origin.name):
                message = f"{role!r} reads a {wanted!r} measurement; {source!r} is {origin.name!r}"
            elif (taken := self.specs.get(source)) and dict(taken.settings).get("until"):
                message = (
                    f"{source!r} draws sequences until its checks are decided, and a series needs "
                    "the same ones at every step: leave its 'until' out"
                )
            else:
                continue
            self.notes.add(path, message)


def _rules(heads: dict[str, Any], path: PathKey) -> Iterator[tuple[PathKey, dict[str, Any]]]:
    """Yield how heads are chosen and the rules within that, each with its path."""
    yield path, heads
    for name in ("and", "without"):
        if isinstance(heads.get(name), dict):
            yield from _rules(heads[name], (*path, name))


def _explain_until(probe: Probe, findings: list[Finding]) -> list[Finding]:
    """Say why a probe has no `until`, in one message for all that goes with it."""
    unknown = {str(one.path[0]) for one in findings if one.at_key and len(one.path) == 1}
    if probe.name not in NOT_SEQUENTIAL or "until" not in unknown:
        return findings
    why = f"'until' does not go with probe {probe.name!r}: {NOT_SEQUENTIAL[probe.name]}"
    kept = []
    for one in findings:
        key = str(one.path[0]) if one.at_key and len(one.path) == 1 else ""
        if key == "until":
            one = Finding(one.path, True, why)
        elif key == "looks" or key.startswith("max_"):
            continue
        kept.append(one)
    return kept
