"""``main`` goes to a trainer with the names and the lines of the files that its code is from."""

from __future__ import annotations

import inspect
import linecache
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from tfos_fast.cluster.spark import closure

SCRIPT = '''
"""A user's program."""
import sys
from tfos_fast.cluster.spark import closure

class Model:
    def call(self, x):
        return [value + 1 for value in x]

def main(args, ctx):
    inner = lambda value: value / args  # of its own
    return [inner(1), Model().call([1])]

if __name__ == "__main__":
    sys.stdout.buffer.write(closure.dumps((main, [main, 2])))
'''


@pytest.fixture
def sent(tmp_path: Path) -> tuple[Path, bytes]:
    """A script that was run and is gone, as on another host, and what it pickled."""
    script = tmp_path / "program.py"
    script.write_text(SCRIPT)
    data = subprocess.run([sys.executable, script], check=True, capture_output=True, timeout=60).stdout
    script.unlink()
    return script, data


def test_functions_keep_their_files_and_lines(sent: tuple[Path, bytes]) -> None:
    script, data = sent
    main, (again, number) = closure.loads(data)
    try:
        assert again is main
        assert number == 2
        assert main(2, None) == [0.5, [2]]
        assert main.__code__.co_filename == str(script)
        assert inspect.getsource(main).startswith("def main(args, ctx):\n    inner = lambda")
        linecache.checkcache()  # as inspect and traceback do now and then
        with pytest.raises(ZeroDivisionError) as caught:
            main(0, None)
        told = "".join(traceback.format_exception(caught.value))
        assert f'File "{script}", line 11, in <lambda>' in told
        assert "inner = lambda value: value / args" in told
    finally:
        linecache.cache.pop(str(script), None)


def test_methods_and_what_lies_within_functions_keep_them(sent: tuple[Path, bytes]) -> None:
    script, data = sent
    main, _ = closure.loads(data)
    try:
        model = main.__globals__["Model"]
        assert inspect.getsource(model.call) == "    def call(self, x):\n        return [value + 1 for value in x]\n"
        inner = [part for part in main.__code__.co_consts if hasattr(part, "co_filename")]
        assert [code.co_filename for code in inner] == [str(script)]
    finally:
        linecache.cache.pop(str(script), None)


def test_code_without_a_file_comes_without_lines() -> None:
    space: dict[str, object] = {"__name__": "__main__"}
    exec("def f(x):\n    return x + 1\n", space)
    f = closure.loads(closure.dumps(space["f"]))
    assert f(1) == 2
    assert f.__code__.co_filename == "<string>"
    assert "<string>" not in linecache.cache


def test_values_without_code_are_as_they_were() -> None:
    value = {"a": [1, 2.5, None, b"x"], "path": Path("/x")}
    assert closure.loads(closure.dumps(value)) == value


def test_a_made_up_file_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closure, "MAX_LINES", 1)
    path = tmp_path / "long.py"
    path.write_text("def f():\n    return 1\n")
    space: dict[str, object] = {"__name__": "__main__"}
    exec(compile(path.read_text(), str(path), "exec"), space)
    data = closure.dumps(space["f"])
    linecache.cache.pop(str(path), None)
    f = closure.loads(data)
    assert f() == 1
    assert f.__code__.co_filename == str(path)
    assert str(path) not in linecache.cache
