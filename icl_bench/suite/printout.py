"""A suite as YAML text again: the data of all the files that it is made of, in one."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import yaml

from icl_bench.suite.document import SCALARS
from icl_bench.suite.specs import Suite

SHORT = 80
"""Characters up to which a mapping stands on one line."""


class _Dumper(yaml.SafeDumper):
    """Puts text into quotes where the reader of suites would take it for something else."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = SCALARS  # type: ignore[misc]

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> Any:
        node = super().represent_mapping(tag, mapping, flow_style)
        if len(json.dumps(mapping, ensure_ascii=False)) > SHORT:
            node.flow_style = False
        return node


def resolved_text(suite: Suite) -> str:
    """Return a suite and what it takes from others as one YAML file, without comments.

    Args:
        suite: a loaded one; what is returned has the same digest.
    """
    text: str = yaml.dump(
        dict(suite.resolved),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=100,
        default_flow_style=None,
    )
    return text
