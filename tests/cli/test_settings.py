"""`--set key=value`: from text to hyper-parameters, and no code of the user's in between."""

from __future__ import annotations

from typing import Any

import pytest

import cai
from cai.cli.errors import CommandError
from cai.cli.settings import parse_settings

METHODS, FACTORS = cai.methods, cai.factors


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("batch_size=64", 64),
        ("learning_rate=1e-3", 1e-3),
        ("learning_rate=-2", -2),
        ("learning_rate = 3 ", 3),
        ("device=cuda", "cuda"),
        ("device=cuda:0", "cuda:0"),
        ("device='cpu'", "cpu"),
        ("vectorization_mode=async", "async"),
        ("max_gradient_norm=none", None),
        ("max_gradient_norm=None", None),
        ("num_critics=true", True),
        ("body=MLPBody()", FACTORS.MLPBody()),
        ("body=MLPBody(hidden=(64, 64))", FACTORS.MLPBody(hidden=(64, 64))),
        ("body=cai.factors.MLPBody((8,))", FACTORS.MLPBody((8,))),
        ("temperature=methods.TargetEntropy()", METHODS.TargetEntropy()),
        ("temperature=TargetEntropy(initial=0.5)", METHODS.TargetEntropy(initial=0.5)),
    ],
)
def test_values(text: str, value: Any) -> None:
    read = parse_settings([text], cai.SoftActorCritic)
    assert list(read.values()) == [value] and type(next(iter(read.values()))) is type(value)


def test_option_objects_within_option_objects() -> None:
    text = "solver=NewtonKrylov()"
    assert parse_settings([text], cai.SoftValueIteration) == {"solver": METHODS.NewtonKrylov()}
    nested = parse_settings(["limit=[MLPBody((3,)), (none, MLPBody((4,)))]"], cai.SoftActorCritic)["limit"]
    assert nested == [FACTORS.MLPBody((3,)), (None, FACTORS.MLPBody((4,)))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_size", "--set takes key=value, got 'batch_size'"),
        ("=3", "--set takes key=value"),
        ("a.b=3", "--set takes key=value"),
        ("num_steps=3", "--set num_steps: give --num-steps"),
        ("num_envs=3", "--set num_envs: give --num-envs"),
        ("batchsize=3", "did you mean batch_size"),
        ("body=MLPBodi()", "no option object 'MLPBodi'; did you mean MLPBody"),
        ("body=MLPBody", "MLPBody is an option object; write MLPBody()"),
        ("body=cai.factors.MLPBody", "write cai.factors.MLPBody()"),
        ("body=MLPBody(hiddn=(3,))", "MLPBody has no option 'hiddn'; did you mean hidden"),
        ("body=MLPBody(*[1, 2])", "without stars"),
        ("body=MLPBody(**{})", "without stars"),
        ("body=SoftActorCritic()", "no option object 'SoftActorCritic'"),
        ("body=open('/etc/passwd')", "no option object 'open'"),
        ("body=__import__('os').system('true')", "no option object"),
        ("body=MLPBody(hidden=print(1))", "no option object 'print'"),
        ("body=(lambda: 3)()", "no option object"),
        ("body=lambda n, m: 3", "is neither a literal nor an option object"),
        ("body=[x for x in (1, 2)]", "is neither a literal nor an option object"),
        ("batch_size=2 + 3", "is neither a literal nor an option object"),
        ("temperature=TargetEntropy(learning_rate='fast', initial=-1)", "--set temperature: TargetEntropy: "),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse_settings([text], cai.SoftActorCritic)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_key_is_given_once() -> None:
    with pytest.raises(CommandError, match="--set batch_size is given twice"):
        parse_settings(["batch_size=3", "batch_size=3"], cai.SoftActorCritic)
