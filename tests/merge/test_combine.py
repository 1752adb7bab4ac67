"""What every way to combine sources promises, run on each file of `ftune/merge/combine` by discovery."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from ftune.core.section import field_docs
from ftune.core.variants import union_of, variants_of
from ftune.merge.combine.base import Combination

VARIANTS = variants_of(Combination)
REQUIRED: dict[str, dict[str, object]] = {"svd": {"rank": 2}}
"""Keys without a default."""

LOSSLESS: dict[str, dict[str, object]] = {
    "svd": {"rank": 5},
    "ties": {"density": 1.0},
    "dare_linear": {"density": 1.0},
    "dare_ties": {"density": 1.0},
}
"""Settings with which nothing of a single source is lost."""

OTHER: dict[str, dict[str, dict[str, object]]] = {
    "svd": {"rank": {"rank": 1}},
    "task_arithmetic": {"scale": {"scale": 0.5}},
    "ties": {"density": {"density": 0.6}, "scale": {"scale": 0.5}},
    "dare_linear": {"density": {"density": 0.9}},
    "dare_ties": {"density": {"density": 0.9}, "scale": {"scale": 0.5}},
}
"""By key, values that must give another result than the defaults."""


def made(name: str, **keys: object) -> Combination:
    given: Any = {"type": name, **REQUIRED.get(name, {}), **keys}
    found: Combination = TypeAdapter(union_of(Combination)).validate_python(given)
    return found


def sources(count: int = 2, shape: tuple[int, ...] = (6, 5), seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def combined(way: Combination, updates: list[torch.Tensor], weights: list[float], seed: int = 3) -> torch.Tensor:
    return way.combine(updates, weights, torch.Generator().manual_seed(seed))


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("shape", [(), (7,), (6, 5), (5, 6), (4, 3, 2)])
def test_it_gives_one_tensor_of_the_same_kind_and_leaves_the_sources_alone(name: str, shape: tuple[int, ...]) -> None:
    updates = sources(2, shape)
    before = [update.clone() for update in updates]
    found = combined(made(name), updates, [0.75, 0.5])
    assert (found.shape, found.dtype) == (shape, torch.float32)
    assert found.isfinite().all()
    assert all(torch.equal(update, old) for update, old in zip(updates, before, strict=True))


@pytest.mark.parametrize("name", VARIANTS)
def test_the_same_generator_gives_the_same_bits_however_the_sources_lie_in_memory(name: str) -> None:
    updates = sources(2)
    turned = [update.T.contiguous().T for update in updates]
    first = combined(made(name), updates, [0.75, 0.5])
    assert torch.equal(combined(made(name), updates, [0.75, 0.5]), first)
    close(combined(made(name), turned, [0.75, 0.5]), first)


@pytest.mark.parametrize("name", VARIANTS)
def test_only_dropping_at_random_uses_the_generator(name: str) -> None:
    updates = sources(2)
    same = torch.equal(*(combined(made(name), updates, [0.75, 0.5], seed) for seed in (1, 2)))
    assert same is not name.startswith("dare")


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith("dare")])
def test_the_order_of_the_sources_does_not_matter(name: str) -> None:
    updates, weights = sources(2), [0.75, 0.5]
    close(combined(made(name), updates[::-1], weights[::-1]), combined(made(name), updates, weights))


@pytest.mark.parametrize("name", VARIANTS)
def test_updates_twice_as_large_give_twice_the_update_and_zeros_give_zeros(name: str) -> None:
    updates = sources(2)
    twice = combined(made(name), [2 * update for update in updates], [0.75, 0.5])
    close(twice, 2 * combined(made(name), updates, [0.75, 0.5]))
    nothing = [torch.zeros(6, 5)] * 2
    assert torch.equal(combined(made(name), nothing, [0.75, 0.5]), nothing[0])


@pytest.mark.parametrize("name", [name for name, cls in VARIANTS.items() if cls.sources[0] == 1])
def test_one_source_of_weight_1_stays_what_it_is(name: str) -> None:
    (update,) = sources(1)
    assert torch.equal(combined(made(name, **LOSSLESS.get(name, {})), [update], [1.0]), update)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_key_has_an_effect_and_a_text(name: str) -> None:
    keys = set(VARIANTS[name].model_fields) - {"type"}
    assert keys == OTHER.get(name, {}).keys()
    plain = combined(made(name), sources(2), [0.75, 0.5])
    for change in OTHER.get(name, {}).values():
        assert not torch.equal(combined(made(name, **change), sources(2), [0.75, 0.5]), plain)
    assert field_docs(VARIANTS[name]).keys() >= keys | {"type"}


@pytest.mark.parametrize("name", sorted(VARIANTS.keys() - REQUIRED.keys()))
def test_its_bare_name_is_enough(name: str) -> None:
    assert TypeAdapter(union_of(Combination)).validate_python(name) == made(name)


@pytest.mark.parametrize("keys", [{"type": "ties", "density": 0.0}, {"type": "dare_linear", "density": 1.5}, "svd"])
def test_impossible_settings_are_refused(keys: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(union_of(Combination)).validate_python(keys)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_it_accepts_it_can_combine(name: str) -> None:
    way = made(name)
    fewest, most = way.sources
    assert way.unfit([1 / fewest] * fewest, common_base=True) is None
    if most:
        refusal = way.unfit([1.0] * (most + 1), common_base=True)
        assert refusal
        assert "use '" in refusal
    without = way.unfit([1 / fewest] * fewest, common_base=False)
    assert bool(without) is way.needs_base
    assert without is None or "'base'" in without


def test_whole_models_without_a_base_are_averaged_not_added() -> None:
    assert "add up to 2" in (made("linear").unfit([1.0, 1.0], common_base=False) or "")
    assert made("linear").unfit([0.333, 0.333, 0.333], common_base=False) is None
    assert made("linear").unfit([1.0, 1.0], common_base=True) is None


@pytest.mark.parametrize("weights", [[-0.5, 1.5], [0.0, 0.0], []])
def test_slerp_stays_between_its_sources(weights: list[float]) -> None:
    assert made("slerp").unfit(weights, common_base=True)
