"""What pydantic finds is said in plain words, of the branch of a union that was meant."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from icl_bench.suite.error_messages import Finding, keys_at, validate


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("an even number will not do")
    return value


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    from_: str = Field(default="x", alias="from")
    size: int = 1


class Other(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    width: float


class Settings(BaseModel):
    """Kinds of settings that no shipped probe needs to have."""

    model_config = ConfigDict(extra="forbid", strict=True)
    layer: int | Literal["all"] = "all"
    head: Annotated[int, Field(ge=0)] | Literal["all"] = "all"
    order: Literal[1, 2] = 1
    pair: tuple[int, int] = (0, 0)
    either: Inner | list[Inner] | Other = Inner()
    nested: dict[str, list[Inner | float]] | None = None
    odd: Annotated[int, AfterValidator(_odd)] = 1
    step: Annotated[int, Field(multiple_of=4)] = 4
    code: Annotated[str, Field(pattern="^x+$", max_length=3)] = "x"


@pytest.mark.parametrize(
    ("data", "path", "message"),
    [
        ({"layer": "al"}, ("layer",), "layer 'al' is unknown; did you mean 'all'?"),
        ({"layer": 1.5}, ("layer",), "layer 1.5 is not a whole number or 'all'"),
        ({"layer": None}, ("layer",), "layer has no value; it must be a whole number or 'all'"),
        ({"head": -1}, ("head",), "head -1 must be at least 0"),
        ({"order": 3}, ("order",), "order 3 is not 1 or 2"),
        ({"pair": 3}, ("pair",), "pair 3 is not a list"),
        ({"pair": [1, "a"]}, ("pair", 1), "entry 2 of pair is 'a', not a whole number"),
        ({"either": {"siz": 1}}, ("either", "siz"), "unknown key 'siz'; did you mean 'size'?"),
        (
            {"either": {"from_": "y"}},
            ("either", "from_"),
            "unknown key 'from_'; did you mean 'from'?",
        ),
        ({"either": [{"size": "1"}]}, ("either", 0, "size"), "leave out the quotes"),
        ({"either": "a"}, ("either",), "either 'a' is not a mapping or a list"),
        (
            {"nested": {"k": ["a"]}},
            ("nested", "k", 0),
            "entry 1 of k is 'a', not a mapping or a nu",
        ),
        ({"nested": {"k": [{"size": 2, "sise": 1}]}}, ("nested", "k", 0, "sise"), "mean 'size'?"),
        ({"odd": 2}, ("odd",), "odd: an even number will not do"),
        ({"step": 3}, ("step",), "step 3 must be a multiple of 4"),
        ({"code": "xxxx"}, ("code",), "code: String should have at most 3 characters"),
        ({"code": "y"}, ("code",), "code: String should match pattern '^x+$'"),
        ({"code": "y" * 100 + "x"}, ("code",), "code: "),
    ],
)
def test_a_finding_names_the_place_and_says_what_would_be_right(
    data: dict[str, Any], path: tuple[str | int, ...], message: str
) -> None:
    model, findings = validate(Settings, data)
    assert model is None
    assert any(one.path == path and message in one.message for one in findings), findings


def test_a_valid_value_has_no_findings_and_lists_fit_tuples() -> None:
    model, findings = validate(Settings, {"pair": [1, 2], "layer": 3, "nested": {"k": [1.5, {}]}})
    assert findings == []
    assert isinstance(model, Settings)
    assert (model.pair, model.layer) == ((1, 2), 3)


def test_keys_given_as_extra_are_offered_at_the_top_level_only() -> None:
    _, findings = validate(Settings, {"prob": 1, "either": {"prob": 1}}, extra_keys=("probe",))
    said = {one.path: one.message for one in findings}
    assert said[("prob",)] == "unknown key 'prob'; did you mean 'probe'?"
    assert "'probe'" not in said[("either", "prob")]


def test_an_unknown_key_is_placed_at_the_key() -> None:
    _, findings = validate(Settings, {"zzz": 1})
    assert [(one.path, one.at_key) for one in findings] == [(("zzz",), True)]
    assert isinstance(findings[0], Finding)


def test_keys_are_those_written_in_yaml() -> None:
    assert keys_at(Inner) == {"from", "size"}
    assert keys_at(Settings, ("either",)) == {"from", "size", "width"}
    assert keys_at(Settings, ("nested", "k", 0)) == {"from", "size"}
    assert keys_at(Settings, ("absent", "deeper")) == set()
