"""What is said of a name that does not exist: what resembles it, else what there is."""

from __future__ import annotations

import pytest

from sommelier.errors import UnknownNameError
from sommelier.storage.catalog import Catalog
from sommelier.storage.naming import unknown_name
from tests.storage.catalog_factories import plain_model

MANY = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta")


@pytest.mark.parametrize(
    ("name", "names", "suggestions", "hint"),
    [
        ("nope", (), (), "there is no pool in the database yet"),
        ("nope", ("vision", "edge"), (), "there is edge, vision"),
        ("vison", ("vision", "edge"), ("vision",), "there is edge, vision"),
        ("vison", ("vision", *MANY), ("vision",), None),
        ("zzzz", MANY[:5], (), "there is alpha, beta, delta, epsilon, gamma"),
        ("zzzz", MANY, (), "there is alpha, beta, delta, epsilon, eta and 2 more"),
    ],
)
def test_an_unknown_name_comes_with_what_resembles_it_or_with_what_there_is(
    name: str, names: tuple[str, ...], suggestions: tuple[str, ...], hint: str | None
) -> None:
    error = unknown_name("pool", name, names)
    assert error.message == f"there is no pool '{name}'"
    assert (error.suggestions, error.hint) == (suggestions, hint)


def test_a_model_that_is_unknown_comes_with_what_there_is() -> None:
    with Catalog.open(":memory:") as catalog:
        with pytest.raises(UnknownNameError) as none:
            catalog.resolve("nope")
        assert "IMPORT MODELS" in str(none.value.hint)
        for name in ("resnet50", "resnet18", "vgg16", "magika"):
            catalog.add_model(plain_model(name))
        with pytest.raises(UnknownNameError) as unlike:
            catalog.resolve("nope")
        assert unlike.value.hint == "there is magika, resnet18, resnet50, vgg16"
        with pytest.raises(UnknownNameError) as alike:
            catalog.resolve("resnet5O")
        assert (alike.value.suggestions[0], alike.value.hint) == ("resnet50", None)
