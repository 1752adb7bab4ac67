"""PPO learns: a random model comes to write the wanted tokens, and the price of KL holds it back."""

from pathlib import Path

from tests.ppo.looping import Run


def scores_and_kls(folder: Path, coefficient: float, iterations: int) -> tuple[list[float], list[float]]:
    run = Run(
        folder,
        plan={"iterations": iterations},
        algorithm={"minibatch_size": 16, "micro_batch_size": 16, "value_coefficient": 0.5},
        kl={"coefficient": coefficient},
        batch_size=32,
        new_tokens=12,
        layers=3,
    )
    run.go()
    steps = run.events("step")
    assert steps[0]["kl"] == 0  # a new adapter changes nothing
    assert all(step["first_ratio_gap"] < 1e-5 for step in steps)
    return [step["score"] for step in steps], [step["kl"] for step in steps]


def test_the_score_rises_and_the_penalty_holds_it_back(tmp_path: Path) -> None:
    scores, kls = scores_and_kls(tmp_path / "cheap", 0.002, 40)
    assert scores[0] <= 0.15
    assert sum(scores[-10:]) / 10 >= 0.5
    held_back, near = scores_and_kls(tmp_path / "dear", 0.05, 25)
    assert sum(near[-5:]) < 0.6 * sum(kls[20:25])
    assert sum(held_back[-5:]) < sum(scores[20:25])
