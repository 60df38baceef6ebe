"""What holds for every command: Ctrl-C."""

import pytest

from sharecap.cli import main


def test_ctrl_c_that_a_command_does_not_expect_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pressed() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sharecap.recipes.find.listed_lines", pressed)
    monkeypatch.setattr("sys.argv", ["sharecap", "lab", "--list"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "sharecap: interrupted. run the same command again to go on\n"
