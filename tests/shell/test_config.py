"""Settings: where they come from and which one wins."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from sommelier.shell.config import (
    ConfigError,
    ShellConfig,
    config_path,
    history_path,
    load_config,
    private_file,
    saved_queries_path,
)


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path / "home")}


def write(home: dict[str, str], text: str) -> Path:
    path = config_path(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_without_anything_the_defaults_hold(home: dict[str, str]) -> None:
    assert load_config({}, environ=home) == ShellConfig()


def test_flag_wins_over_environment_wins_over_file(home: dict[str, str]) -> None:
    write(home, 'format = "csv"\nmaxrows = 7\ntimer = false\n')
    environ = home | {"SOMMELIER_FORMAT": "json", "SOMMELIER_MAXROWS": "9"}
    config = load_config({"format": "ids", "maxrows": None}, environ=environ)
    assert (config.format, config.maxrows, config.timer) == ("ids", 9, False)


def test_no_config_ignores_the_file_but_not_the_environment(home: dict[str, str]) -> None:
    write(home, "maxrows = [this is not TOML")
    environ = home | {"SOMMELIER_DB": "x.sommelier"}
    assert load_config({}, environ=environ, use_file=False).database == "x.sommelier"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("maxrow = 3", "there is no setting 'maxrow'"),
        ("maxrows = -1", "maxrows is a whole number"),
        ('maxrows = "3"', "maxrows is a whole number"),
        ("maxrows = true", "maxrows is a whole number"),
        ('timer = "on"', "timer is true or false"),
        ('format = "jsn"', "format cannot be 'jsn'"),
        ("format = ", "cannot read"),
        ('bail = "yes"', "bail is true or false"),
    ],
)
def test_a_wrong_setting_names_the_file_and_what_is_wrong(
    home: dict[str, str], text: str, message: str
) -> None:
    path = write(home, text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config({}, environ=home)
    assert str(path) in str(caught.value)


def test_near_names_are_suggested(home: dict[str, str]) -> None:
    write(home, "maxrow = 3")
    with pytest.raises(ConfigError) as caught:
        load_config({}, environ=home)
    assert caught.value.suggestions == ("maxrows",)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("SOMMELIER_TIMER", "perhaps"), ("SOMMELIER_MAXROWS", "many"), ("SOMMELIER_COLOR", "red")],
)
def test_a_wrong_variable_names_itself(home: dict[str, str], variable: str, value: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        load_config({}, environ=home | {variable: value})


def test_other_variables_of_our_prefix_are_left_alone(home: dict[str, str]) -> None:
    assert load_config({}, environ=home | {"SOMMELIER_ZOO": "/zoo"}) == ShellConfig()


def test_bail_can_be_set_either_way_or_left_open(home: dict[str, str]) -> None:
    assert load_config({}, environ=home).bail is None
    assert load_config({}, environ=home | {"SOMMELIER_BAIL": "off"}).bail is False


def test_pager_follows_the_usual_variable(home: dict[str, str]) -> None:
    assert load_config({}, environ=home | {"PAGER": "more"}).pager == "more"
    both = home | {"PAGER": "more", "SOMMELIER_PAGER": "off"}
    assert load_config({}, environ=both).pager == "off"


def test_a_configuration_file_that_was_asked_for_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        load_config({}, environ={}, path=tmp_path / "none.toml")


def test_relative_xdg_paths_are_ignored_as_the_specification_says(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": "relative", "XDG_STATE_HOME": ""}
    assert config_path(environ) == tmp_path / ".config/sommelier/config.toml"
    assert history_path(environ) == tmp_path / ".local/state/sommelier/history"
    assert saved_queries_path(environ) == tmp_path / ".local/share/sommelier/queries.json"


def test_private_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "a" / "history"
    path.parent.mkdir()
    path.write_text("kept")
    path.chmod(0o644)
    assert stat.S_IMODE(private_file(path).stat().st_mode) == 0o600
    assert path.read_text() == "kept"
