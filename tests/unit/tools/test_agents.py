"""A trained agent in a loop of one's own does what `evaluate` does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import forward_step, run_command, tiny

from ppo37 import evaluate, load_agent, train
from ppo37.build import make_factory
from ppo37.config import Config
from ppo37.envs import EnvFactory, Episode, Step, VecEnv
from ppo37.errors import UsageError
from ppo37.session import checkpoint, directory
from ppo37.tools.agents import TrainedAgent, list_agents
from ppo37.tools.evaluate import games_seed

VECTOR: dict[str, Any] = {
    "game": "points",
    "network": "mlp",
    "observation": "ram",
    "norm_obs": True,
}


class Points(VecEnv):
    """Episodes of 3 to 9 steps in which every observation is random, far from mean 0 and std 1."""

    obs_shape = (3,)
    action_names = ("A", "B", "C")

    def __init__(self, num_envs: int, seed: int, *, first_env: int = 0, index: int = 0) -> None:
        self.num_envs, self.first = num_envs, first_env
        self.seeds = [[seed, index, first_env + i] for i in range(num_envs)]

    def reset(self) -> np.ndarray:
        self.rngs = [np.random.default_rng(seed) for seed in self.seeds]
        self.left = np.array([rng.integers(3, 10) for rng in self.rngs])
        self.played, self.scores = np.zeros(self.num_envs, int), np.zeros(self.num_envs)
        return self.draw()

    def draw(self) -> np.ndarray:
        return np.stack([rng.normal([50, -3, 0], [9, 1, 2]) for rng in self.rngs]).astype("f4")

    def step(self, actions: np.ndarray) -> Step:
        self.left -= 1
        self.played += 1
        self.scores += actions
        dones = self.left == 0
        ended = [
            Episode(self.first + int(i), float(self.scores[i]), int(self.played[i]))
            for i in np.flatnonzero(dones)
        ]
        for i in np.flatnonzero(dones):
            self.left[i], self.played[i], self.scores[i] = self.rngs[i].integers(3, 10), 0, 0
        obs = self.draw()
        return Step(obs, actions.astype("f4"), dones, np.zeros_like(dones), obs, ended)

    def close(self) -> None:
        """Do nothing."""


class MaskedPoints(Points):
    """The same with a mask at the end of each observation: B is never legal."""

    obs_shape, view_shape = (6,), (3,)

    def draw(self) -> np.ndarray:
        mask = np.broadcast_to(np.array([1, 0, 1], "f4"), (self.num_envs, 3))
        return np.concatenate([super().draw(), mask], axis=1)

    def step(self, actions: np.ndarray) -> Step:
        assert not (actions == 1).any()
        return super().step(actions)


def trained_run(tmp_path: Path, make_envs: EnvFactory | None = None, **changes: Any) -> Path:
    train(tiny(**{"total_timesteps": 128, **changes}), tmp_path / "run", make_envs=make_envs)
    return tmp_path / "run"


def scores(trained: TrainedAgent, games: int, make_envs: EnvFactory | None, **more: Any) -> Any:
    """Play with `act` alone; return the score of the first game of each environment."""
    envs = make_factory(trained.config, 1, make_envs=make_envs)(games, games_seed(5))
    obs, found = envs.reset(), {}
    while len(found) < games:
        step = envs.step(trained.act(obs, **more))
        trained.reset(step.dones)
        for episode in step.episodes:
            found.setdefault(episode.env, episode.score)
        obs = step.obs
    envs.close()
    return [found[i] for i in range(games)]


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize(
    ("changes", "make_envs"),
    [({}, None), ({"network": "lstm"}, None), (VECTOR, Points), (VECTOR, MaskedPoints)],
    ids=["cnn", "lstm", "normalized", "masked"],
)
def test_act_plays_what_evaluate_plays(
    tmp_path: Path, changes: dict[str, Any], make_envs: EnvFactory | None, greedy: bool
) -> None:
    run = trained_run(tmp_path, make_envs, **changes)
    played = evaluate(run, 5, seed=5, make_envs=make_envs, greedy=greedy)
    trained = load_agent(run, "cpu", seed=5)
    assert scores(trained, 5, make_envs, greedy=greedy) == played.scores
    assert played.to_json()["greedy"] is greedy


def test_one_observation_is_a_batch_of_one(finished_run: Path) -> None:
    obs = np.random.default_rng(0).integers(0, 256, (50, 1, 36, 36), np.uint8)
    one, batch = (load_agent(finished_run, "cpu", seed=2) for _ in range(2))
    singles = [one.act(each) for each in obs]
    batches = [batch.act(each[None]) for each in obs]
    assert all(action.shape == () and action.dtype == np.int64 for action in singles)
    assert all(actions.shape == (1,) for actions in batches)
    assert np.array_equal(singles, np.concatenate(batches))
    assert len(set(map(int, singles))) == 3, "they are sampled"
    other = load_agent(finished_run, "cpu", seed=3)
    assert [other.act(each) for each in obs] != singles


def test_a_greedy_action_is_the_most_likely(finished_run: Path) -> None:
    trained = load_agent(finished_run, "cpu")
    obs = np.random.default_rng(0).integers(0, 256, (20, 1, 36, 36), np.uint8)
    with torch.no_grad():
        policy, _ = forward_step(trained.agent, torch.from_numpy(obs))
    expected = np.argmax(policy.logits.numpy(), axis=1)
    assert np.array_equal(trained.act(obs, greedy=True), expected)
    assert np.array_equal(trained.act(obs, greedy=True), expected)


def test_changed_weights_are_used_at_once(finished_run: Path) -> None:
    trained = load_agent(finished_run, "cpu")
    obs = np.zeros((1, 36, 36), np.uint8)
    for action in range(3):
        with torch.no_grad():
            trained.agent.policy_head.bias.copy_(99.0 * torch.eye(3)[action])
        assert trained.act(obs, greedy=True) == action


def test_reset_clears_the_state_of_the_lstm(tmp_path: Path) -> None:
    run = trained_run(tmp_path, network="lstm")
    trained = load_agent(run, "cpu")
    obs = np.random.default_rng(0).integers(0, 256, (3, 1, 36, 36), np.uint8)
    trained.act(obs)
    first = trained._lstm_state.clone()
    trained.act(obs)
    trained.reset([True, False, False])
    trained.act(obs)
    assert torch.equal(trained._lstm_state[0], first[0])
    assert not torch.isclose(trained._lstm_state[1:], first[1:]).all()
    with pytest.raises(UsageError, match=r"act got 2 observations after 3, .* call reset"):
        trained.act(obs[:2])
    with pytest.raises(UsageError, match=r"dones must have 3 values, not \[2\]"):
        trained.reset([True, False])
    trained.reset()
    trained.act(obs)
    assert torch.equal(trained._lstm_state, first)
    trained.reset()
    trained.act(obs[:2])
    assert torch.allclose(trained._lstm_state, first[:2], atol=1e-6)  # a batch of 2 rounds its way


def test_a_batch_of_another_size_gets_new_random_numbers(finished_run: Path) -> None:
    trained = load_agent(finished_run, "cpu")
    drawn = [trained._next_uniforms(count) for count in (2, 2, 3, 1, 2)]
    assert [each.shape for each in drawn] == [(2,), (2,), (3,), (1,), (2,)]
    assert len(torch.cat(drawn).unique()) == 10


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        (np.zeros((36, 36), np.uint8), r"needs an observation \[1, 36, 36\] or a batch"),
        (np.zeros((1, 1, 1, 36, 36), np.uint8), "needs an observation"),
        (np.zeros((4, 36, 36, 1), np.uint8), r"not \[4, 36, 36, 1\]"),
        (np.zeros((1, 36, 36), np.float32), "needs uint8 observations, 0 to 255, not float32"),
        (np.zeros((0, 1, 36, 36), np.uint8), "at least one observation"),
        (None, r"needs an observation .* not \[\]"),
    ],
)
def test_observations_that_do_not_fit_get_one_line(
    finished_run: Path, obs: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        load_agent(finished_run, "cpu").act(obs)


def test_observations_to_be_normalized_are_real_and_finite(tmp_path: Path) -> None:
    trained = load_agent(trained_run(tmp_path, Points, **VECTOR), "cpu")
    assert trained.act(np.array([50, -3, 0]), greedy=True) == trained.act(
        np.array([50.0, -3.0, 0.0], np.float64), greedy=True
    )
    for wrong, message in (
        (np.full(3, np.nan), "finite"),
        (np.full(3, 1e300), "finite"),
        (np.full(3, "a"), "real numbers, not <U1"),
    ):
        with pytest.raises(UsageError, match=message):
            trained.act(wrong)


def test_a_trained_agent_has_its_parts_and_can_be_unpacked(finished_run: Path) -> None:
    trained = load_agent(finished_run, "cpu")
    agent, config, state, path = trained
    assert agent is trained.agent
    assert config is trained.config
    assert isinstance(config, Config)
    assert state is trained.state
    assert path is trained.path
    with pytest.raises(UsageError, match="seed must be from 0"):
        load_agent(finished_run, seed=-1)


def test_eval_says_that_actions_were_greedy(
    breakout_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--episodes", "1", "--greedy")
    code, out, _ = run_command(capsys, "eval", str(breakout_run), *more)
    assert code == 0
    assert "actions: the most likely ones (greedy)" in out
    assert "published scores are those of sampled actions" in out
    _, out, _ = run_command(capsys, "eval", str(breakout_run), *more, "--json")
    assert json.loads(out)["greedy"] is True


def test_export_refuses_the_name_of_a_file(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("export", str(finished_run), "--out")
    code, _, err = run_command(capsys, *arguments, str(tmp_path / "x.onnx"))
    assert code == 2
    assert "export writes a folder" in err
    assert f"name it {tmp_path / 'x'};" in err
    assert run_command(capsys, *arguments, str(tmp_path / "pong-v1.0"))[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["pong-v1.0"]


def test_an_agent_in_half_precision_is_half_as_large_and_rounded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained_run(tmp_path, Points, **VECTOR)
    for name, options in (("whole", []), ("half", ["--half"])):
        out = str(tmp_path / name)
        assert run_command(capsys, "export", str(run), "--out", out, *options)[0] == 0
    whole, half = (checkpoint.load(tmp_path / name) for name in ("whole", "half"))
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    assert {tensor.dtype for tensor in half.model.values()} == {torch.float32, torch.float64}
    for name, tensor in whole.model.items():
        rounded = tensor.half().float() if tensor.dtype == torch.float32 else tensor
        assert torch.equal(half.model[name], rounded)
    again = checkpoint.load(checkpoint.export(half, tmp_path / "again"))
    assert "half" not in again.state, "it is stored in fp32"
    assert torch.equal(*(saved.model["policy_head.weight"] for saved in (half, again)))


def test_weights_too_large_for_half_precision_are_refused(
    finished_run: Path, tmp_path: Path
) -> None:
    saved = checkpoint.load_newest(finished_run / "checkpoints")[0]
    saved.model["value_head.weight"][0, 0] = 1e5
    with pytest.raises(UsageError, match=r"has weights above 65,504"):
        checkpoint.export(saved, tmp_path / "agent", half=True)
    assert not (tmp_path / "agent").exists()


@pytest.fixture
def agents_folder(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of trained agents with one, `catcher`; the working directory is another one."""
    folder, saved = tmp_path / "agents", checkpoint.load_newest(finished_run / "checkpoints")[0]
    checkpoint.export(saved, folder / "catcher")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(directory, "AGENTS", folder)
    return folder


def test_a_trained_agent_is_found_by_its_name(
    agents_folder: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = evaluate(finished_run, 3).scores
    assert load_agent("catcher").path == agents_folder / "catcher"
    code, out, _ = run_command(capsys, "eval", "catcher", "--episodes", "3", "--json")
    assert (code, json.loads(out)["scores"]) == (0, whole)
    code, _, err = run_command(capsys, "resume", "catcher")
    assert (code, "is a published agent" in err) == (2, True)
    code, _, err = run_command(capsys, "eval", "cather")
    assert (code, err.count("\n")) == (2, 1)
    assert "no trained agent has this name" in err
    # A path is never taken for a name, and a folder here comes first.
    for path in ("runs/catcher", "./catcher", "catcher/"):
        code, _, err = run_command(capsys, "eval", path)
        assert (code, "catcher does not exist" in err) == (2, True), path
    Path("catcher").symlink_to("nowhere")
    assert run_command(capsys, "eval", "catcher")[0] == 2
    Path("catcher").unlink()
    Path("catcher").mkdir()
    code, _, err = run_command(capsys, "eval", "catcher")
    assert (code, "is not a run directory" in err) == (2, True)


def test_trained_agents_are_listed_with_their_scores(agents_folder: Path) -> None:
    assert [(agent.name, agent.score) for agent in list_agents(agents_folder)] == [
        ("catcher", None)
    ]
    file = agents_folder / "catcher" / "evaluation.json"
    file.write_text(json.dumps(evaluate("catcher", 3).to_json()))
    (agent,) = list_agents(agents_folder)
    assert agent.score == evaluate("catcher", 3).mean
    assert agent.interval == evaluate("catcher", 3).interval
    file.write_text('{"mean": "high"}')
    with pytest.raises(UsageError, match=r"evaluation\.json is damaged"):
        list_agents(agents_folder)
    with pytest.raises(UsageError, match="this installation has no trained agents: "):
        list_agents(agents_folder / "none")
