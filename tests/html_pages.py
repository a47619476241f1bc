"""What the tests of HTML pages share: records, hostile ones among them, and a reader of HTML."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from icl_bench.records.reading import read_record
from icl_bench.records.record import RunRecord

SAMPLES = Path(__file__).parent.parent / "reports" / "samples"
HOSTILE = '</script><img src=x onerror="window.hacked=1"><b>&amp;\'\u2028{{ 7*7 }}`${1}'
"""Text that would act if any of script, attribute, element, template or string let it."""

_VOID = {"meta", "link", "br", "img", "input", "hr"}


def sample(name: str) -> RunRecord:
    """Return a committed record."""
    return read_record(SAMPLES / name / "results.json")


def make_hostile(record: RunRecord) -> RunRecord:
    """Return the record with hostile text wherever text from models and suites stands."""
    told = record.model_copy(deep=True)
    told.model.spec, told.model.origin = HOSTILE, None
    told.model.architecture = HOSTILE
    told.model.attention_note = HOSTILE
    told.suites[0].description = HOSTILE
    for check in told.checks:
        check.description = check.reason = HOSTILE
        if check.kind == "quiz":
            check.question = HOSTILE
            check.options = dict.fromkeys(check.options or {}, HOSTILE)
    for key, one in list(told.measurements.items()):
        one.unmeasured["metric"] = HOSTILE
        one.settings["text"] = HOSTILE
        for row in one.tables.get("example_tokens", []):
            row["token"] = HOSTILE
        for row in one.tables.get("switches", []):
            row["label"] = HOSTILE
        for row in one.tables.get("switched", []):
            for asked in row.get("predictions", []):
                asked["top"] = [[HOSTILE, share] for _, share in asked["top"]]
        told.measurements[key + "<i>"] = one
    return told


class Reader(HTMLParser):
    """Reads a page: the elements in order, their text, and what is wrong with them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.faults: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.faults.append(f"</{tag}> closes <{self.open[-1] if self.open else ''}>")
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    def attributes(self, name: str) -> list[str]:
        """Return the values of one attribute, in order."""
        return [value for _, own in self.elements if (value := own.get(name)) is not None]
