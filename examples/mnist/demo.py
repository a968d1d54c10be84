"""The whole walkthrough on this machine: prepare, train on two nodes, infer, each as its own Spark application.

    python demo.py [--data DIR] [--output demo-output] [--master 'local-cluster[2,1,1024]']

Everything is written below ``--output``, where it replaces what an earlier run wrote. Scratch files lie in a temporary
folder that is removed, and at the end the demo looks whether any process, socket or segment that it caused is left.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pyspark

HERE = Path(__file__).resolve().parent
CLONE = HERE.parent.parent
MARK = "TFOS_DEMO_RUN"  # in the environment of every process that this run starts, however far down

SPARK_DEFAULTS = """\
spark.master {master}
spark.ui.enabled false
spark.ui.showConsoleProgress false
spark.executor.memory 512m
# These programs live for seconds: a quick start matters more than the best machine code.
spark.driver.extraJavaOptions -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
spark.executor.extraJavaOptions -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
"""

LOG4J = """\
rootLogger.level = error
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{HH:mm:ss} %p %c{1}: %m%n
# Without a level of its own, this one would make Spark put the root logger back to warnings.
logger.pyspark.name = org.apache.spark.api.python.PythonGatewayServer
logger.pyspark.level = error
"""


def make_environment(scratch: Path, master: str) -> dict[str, str]:
    """Lay out a Spark home and configuration in ``scratch`` and give the environment in which the programs use them."""
    home, conf, runtime = scratch / "spark", scratch / "conf", scratch / "run"
    for folder in (home, conf, runtime):
        folder.mkdir(mode=0o700)
    # local-cluster writes its work folder into SPARK_HOME, so this one is of links into the installed pyspark.
    for name in ("bin", "jars"):
        (home / name).symlink_to(Path(pyspark.__file__).parent / name)
    (conf / "spark-defaults.conf").write_text(SPARK_DEFAULTS.format(master=master))
    (conf / "log4j2.properties").write_text(LOG4J)
    return os.environ | {
        MARK: uuid.uuid4().hex,
        "SPARK_HOME": str(home),
        "SPARK_CONF_DIR": str(conf),
        "SPARK_LOCAL_DIRS": str(scratch / "local"),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "TFOS_RUNTIME_DIR": str(runtime),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONWARNINGS": "ignore",
    }


def processes_of(mark: str) -> list[str]:
    """Command lines of the living processes whose environment carries the mark of this run."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(f"{process.name} {command[:100]}")
        except OSError:
            continue  # gone, or of another user
    return found


def leftovers(mark: str, runtime: Path, patience: float = 10.0) -> list[str]:
    """What this run has left: processes (which alone keep a segment alive) and runtime files (sockets)."""
    deadline = time.monotonic() + patience  # a JVM takes a moment to end after its program has
    while (left := processes_of(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left + [str(path) for path in sorted(runtime.rglob("*"))]


def run(program: str, environment: dict[str, str], *arguments: str) -> float:
    """Run one of the three programs with its output on ours; seconds it took."""
    print(f"== {program} {' '.join(arguments)}", flush=True)
    start = time.monotonic()
    subprocess.run([sys.executable, str(HERE / program), *arguments], env=environment, check=True)
    return time.monotonic() - start


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the classic 28x28 IDX files (default: the bundled 8x8 digits)")
    parser.add_argument("--output", type=Path, default=CLONE / "demo-output", help="folder to write; what is in it is replaced")
    parser.add_argument("--master", default="local-cluster[2,1,1024]")
    parser.add_argument("--epochs", type=int, help="default: 20, with --data 5")
    args = parser.parse_args(argv)
    output = args.output.resolve()
    epochs = args.epochs or (5 if args.data else 20)
    csv, model, predictions = output / "csv", output / "model.keras", output / "predictions"

    for made in (csv, predictions):
        shutil.rmtree(made, ignore_errors=True)
    model.unlink(missing_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tfos-demo-") as scratch:
        environment = make_environment(Path(scratch), args.master)
        try:
            data = ["--data", str(args.data.resolve())] if args.data else []
            seconds = [
                run("prepare.py", environment, *data, "--output", str(csv)),
                run(
                    "train.py",
                    environment,
                    "--input",
                    str(csv / "train"),
                    "--model",
                    str(model),
                    "--epochs",
                    str(epochs),
                ),
                run(
                    "infer.py",
                    environment,
                    "--input",
                    str(csv / "test"),
                    "--model",
                    str(model),
                    "--output",
                    str(predictions),
                ),
            ]
        except subprocess.CalledProcessError as error:
            print(f"{Path(error.cmd[1]).name} failed with exit status {error.returncode}", file=sys.stderr)
            return 1
        finally:
            left = leftovers(environment[MARK], Path(environment["TFOS_RUNTIME_DIR"]))
            if left:
                print("left behind:", *left, sep="\n  ", file=sys.stderr)
    print("== done: prepare {:.0f} s, train {:.0f} s, infer {:.0f} s".format(*seconds))
    print(f"predictions: {predictions}")
    if left:
        return 1
    print("left behind: no process, no socket, no segment")
    return 0


if __name__ == "__main__":
    sys.exit(main())
