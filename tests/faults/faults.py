"""Every command disturbed at random moments, then run again: it must end as if nothing had been.

    PYTHONPATH=tests:tests/faults python tests/faults/faults.py                       # 30 trials, a minute or two
    PYTHONPATH=tests:tests/faults python tests/faults/faults.py --trials 300 --seed 7
    PYTHONPATH=tests:tests/faults python tests/faults/faults.py --only 12 --seed 7    # one again; its folder is kept

A trial is a function of seed and number, but for the moment at which the system lets a signal through. After each:
the same command ends with 0, its files are those of an undisturbed run, byte for byte, and its inputs are untouched.
The disturbed one itself must have ended in time, without a traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # evaluate's own processes read the top of this file anew: it costs them nothing
    from forked import Ended, Running
    from world import Command, World

LIMIT = 120.0  # seconds that any command here may take; undisturbed they take three at most
# How often each fault comes in thirty trials.
MIX = {
    "killed": 7,
    "asked to end": 4,
    "the n-th write fails": 4,
    "a full disk": 3,
    "a read-only place": 2,
    "two at once": 3,
    "a photo changes": 3,
    "a rank dies": 2,
    "nobody listens": 2,
}


class Trials:
    def __init__(self, root: Path, seed: int) -> None:
        from stand_in import StandIn

        self.seed, self.hub = seed, StandIn(root / "hub-home")
        from forked import start, warm, write_modules
        from made import tree
        from world import World

        warm()
        self.world: World = World(root, self.hub)
        self.world.make()
        self.commands: list[Command] = self.world.commands()
        self.undisturbed: dict[str, dict[str, bytes]] = {}
        self.seconds: dict[str, float] = {}
        modules = root / "log" / "modules"
        seen: set[str] = set()
        for turn in range(2):  # the second begins with all that it imports, as trials do
            for command in self.commands:
                self.world.clear(command)
                ended = start(command.words, root / "log" / "undisturbed", after=write_modules(modules)).wait(LIMIT)
                assert ended.code == 0, ended
                seen |= set(modules.read_text().split())
                result = self.world.result(command)
                if turn:
                    assert result == self.undisturbed[command.name], f"{command.name}: twice is not the same"
                self.undisturbed[command.name] = result
                self.seconds[command.name] = ended.seconds
            warm(sorted(seen))
        self.inputs = tree(self.world.inputs)
        self.may_mount = _may_mount(root / "disk")

    def run(self, number: int) -> tuple[str, str, list[str], list[Ended]]:
        """The fault, the command, what went wrong, and what was seen."""
        from forked import start
        from made import tree
        from world import differing

        kinds = [kind for kind, count in MIX.items() for _ in range(count)]
        random.Random(f"{self.seed}/{number // len(kinds)}").shuffle(kinds)
        rng = random.Random(f"{self.seed}/{number}/trial")
        kind = kinds[number % len(kinds)]
        fault: Callable[[Trial], None] = FAULTS[kind]
        able = [command for command in self.commands if _suits(kind, command)]
        command = rng.choice(able)
        trial = Trial(self, command, rng, self.world.root / "log" / str(number))
        self.world.clear(command)
        self._restore()
        wrong: list[str] = []
        try:
            fault(trial)
            wrong += [f"disturbed: {said}" for ended in trial.ended if (said := ended.complaint())]
            wrong += trial.wrong
            self._restore()
            whole = self.undisturbed[command.name] if trial.expected is None else trial.expected
            before = self.world.result(command)
            again = trial.last() if trial.last else start(command.words, trial.log / "again").wait(LIMIT)
            trial.ended.append(again)
            if again.code != 0 and before != whole:  # what was finished may say that it is there
                wrong.append(f"again: ended with {again.code}")
            wrong += [f"again: {said}" for said in [again.complaint()] if said]
            other = differing(self.world.result(command), whole)
            if kind == "a photo changes":  # what was answered for the other one may stay: answers go by content
                other = [name for name in other if name in whole or not name.startswith("autolabels/")]
            if trial.set_aside:  # a photo that comes later gets the next free id, and none changes sides
                counted = ("annotations/", "README.md", "prepare.json", "report.html")  # what says who is where
                other = [name for name in other if not name.startswith(counted)]
                other += differing(_maps(self.world.result(command)), _maps(whole))
            if other:
                wrong.append(f"{len(other)} files are not those of an undisturbed run: {', '.join(other[:4])}")
            if other := differing(tree(self.world.inputs), self.inputs):
                wrong.append(f"inputs were changed: {', '.join(other[:4])}")
        finally:
            trial.close()
            self._restore()
        return kind, command.name, wrong, trial.ended

    def _restore(self) -> None:
        """Inputs as they were, in content and time."""
        from world import EPOCH

        for name, content in self.inputs.items():
            path = self.world.inputs / name
            if not path.is_file() or path.stat().st_mtime_ns != EPOCH:
                path.unlink(missing_ok=True)
                path.write_bytes(content)
                os.utime(path, ns=(EPOCH, EPOCH))


def _maps(files: dict[str, bytes]) -> dict[str, bytes]:
    """The id maps of a dataset, whichever side they are on."""
    return {Path(name).name: content for name, content in files.items() if name.endswith(".png")}


class Trial:
    def __init__(self, trials: Trials, command: Command, rng: random.Random, log: Path) -> None:
        self.trials, self.world, self.command, self.rng, self.log = trials, trials.world, command, rng, log
        self.ended: list[Ended] = []
        self.wrong: list[str] = []
        self.expected: dict[str, bytes] | None = None
        self.last: Callable[[], Ended] | None = None
        self.mounted = self.set_aside = False

    def moment(self) -> float:
        return self.rng.uniform(0, 1.05 * self.trials.seconds[self.command.name])

    def start(self, arrange: Callable[[], object] = lambda: None, **options: Any) -> Running:
        from forked import start

        name = f"{len(list(self.log.glob('*.err')))}"
        return start(self.command.words, self.log / name, arrange, **options)

    def mount(self, size: int) -> None:
        from world import copied

        with copied(self.world.out) as restore:
            self.world.out.mkdir(exist_ok=True)
            _mount("-t", "tmpfs", "-o", f"size={max(size, 4096)}", "tmpfs", str(self.world.out))
            self.mounted = True
            restore()

    def remount(self, options: str) -> None:
        _mount("-o", f"remount,{options}", str(self.world.out))

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.world.out)], check=True)
        shutil.rmtree(self.world.out, ignore_errors=True)


# --- the faults


def killed(trial: Trial) -> None:
    """Once or twice, at moments that are spread over its work."""
    for _ in range(trial.rng.choice((1, 1, 2))):
        running = trial.start()
        if not running.ended_within(trial.moment()):
            running.signal(signal.SIGKILL)
        trial.ended.append(running.wait(LIMIT))


def asked_to_end(trial: Trial) -> None:
    running = trial.start()
    if not running.ended_within(trial.moment()):
        running.signal(trial.rng.choice((signal.SIGTERM, signal.SIGINT)))
    trial.ended.append(running.wait(LIMIT))


def nth_write_fails(trial: Trial) -> None:
    from forked import refuse

    number = trial.rng.randrange(1, 1 + 2 * len(trial.trials.undisturbed[trial.command.name]))
    lacking = trial.rng.choice((errno.ENOSPC, errno.EDQUOT, errno.EIO))
    ended = trial.start(refuse(trial.world.out, lacking, number - 1, folders=False)).wait(LIMIT)
    trial.ended.append(ended)
    _must_say(trial, ended)


def full_disk(trial: Trial) -> None:
    if not trial.trials.may_mount:
        return nth_write_fails(trial)
    needed = sum(map(len, trial.trials.undisturbed[trial.command.name].values()))
    begin = 0 if trial.command.begin is None else needed  # what lies there at first has room
    trial.mount(begin + round(needed * trial.rng.uniform(0.05, 1.2)) + 2**17)
    ended = trial.start().wait(LIMIT)
    trial.ended.append(ended)
    _must_say(trial, ended)
    trial.remount(f"size={2**28}")
    return None


def read_only(trial: Trial) -> None:
    from forked import refuse

    if trial.trials.may_mount:
        trial.mount(2**28)
        trial.remount("ro")
        ended = trial.start().wait(LIMIT)
        trial.remount("rw")
    else:
        ended = trial.start(refuse(trial.world.out, errno.EROFS)).wait(LIMIT)
    trial.ended.append(ended)
    if ended.code == 0:
        trial.wrong.append("disturbed: ended with 0, where nothing could be written")
    _must_say(trial, ended)


def two_at_once(trial: Trial) -> None:
    first = trial.start()
    first.ended_within(trial.moment())
    second = trial.start()
    trial.ended += [first.wait(LIMIT), second.wait(LIMIT)]
    if not any(ended.code == 0 for ended in trial.ended):
        trial.wrong.append("disturbed: neither of two came to its end")


def photo_changes(trial: Trial) -> None:
    """To another of its size, or to half a file: set aside, or what comes out is of the one or the other alone."""
    from forked import start
    from made import save_photo
    from PIL import Image

    photos = trial.command.photos
    assert photos is not None
    photo = trial.rng.choice(sorted(path for path in photos.rglob("*") if path.is_file()))
    with Image.open(photo) as image:
        size = image.size
    other = save_photo(trial.log / f"other{photo.suffix}", size, seed=trial.rng.randrange(1000))
    cut = trial.rng.random() < 0.3
    if cut:
        other.write_bytes(other.read_bytes()[: other.stat().st_size // 2])
    if trial.command.name == "predict":  # what is whole is replaced on demand only, also where a photo is another now
        words = (*trial.command.words, "--overwrite")
        trial.last = lambda: start(words, trial.log / "again").wait(LIMIT)
    running = trial.start()
    running.ended_within(trial.moment())
    other.replace(photo)
    ended = running.wait(LIMIT)
    trial.ended.append(ended)
    told = "was changed" in ended.said + ended.errors
    trial.set_aside = ended.code == 0 and told
    if ended.code == 0 and not cut and not told and not _is_of_one(trial, photo):
        trial.wrong.append(f"disturbed: what was made of {photo.name} is neither of the old nor of the new photo")


def _is_of_one(trial: Trial, photo: Path) -> bool:
    """Whether all that came out for this photo comes from one content of it."""
    command, world = trial.command, trial.world

    def of_photo(found: dict[str, bytes]) -> dict[str, bytes]:
        return {name: content for name, content in found.items() if photo.stem in name} or found

    found = of_photo(world.result(command))
    if found == of_photo(trial.trials.undisturbed[command.name]):
        return True
    world.clear(command)
    whole = trial.start().wait(LIMIT)  # undisturbed, with the new photo
    trial.ended.append(whole)
    same = found == of_photo(world.result(command))
    world.clear(command)
    return same


def rank_dies(trial: Trial) -> None:
    """Two processes, as a launcher starts them; the other ends by itself, and both together end what they began.

    Until they have met nobody can know who is missing: then it is the launcher that ends the others.
    """
    meetings = itertools.count()

    def launched() -> list[Running]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        meeting = trial.log / f"meeting-{next(meetings)}"
        meeting.mkdir(parents=True)
        ranks = [trial.start(lambda rank=rank: _is_rank(rank, port, meeting)) for rank in range(2)]
        while len(list(meeting.iterdir())) < len(ranks) and not any(rank.ended_within(0.01) for rank in ranks):
            pass
        return ranks

    def both() -> Ended:
        ends = [running.wait(LIMIT) for running in launched()]
        trial.ended.append(ends[1])
        return ends[0]

    whole = both()
    assert whole.code == 0, whole
    trial.expected = trial.world.result(trial.command)
    trial.world.clear(trial.command)
    running = launched()
    chosen, other = trial.rng.sample(running, 2)
    if not chosen.ended_within(trial.rng.uniform(0, 1.05 * whole.seconds)):
        chosen.signal(signal.SIGKILL)
    trial.ended += [chosen.wait(LIMIT), other.wait(75)]
    _must_say(trial, trial.ended[-1])
    trial.last = both


def _is_rank(rank: int, port: int, meeting: Path) -> None:
    """In the process itself: what a launcher tells it, and a file as soon as it has met the other."""
    from accelerate import PartialState

    os.environ.update(_ranks(rank, port))
    meet = PartialState.__init__

    def met(*words: Any, **options: Any) -> None:
        meet(*words, **options)
        (meeting / str(rank)).touch()

    PartialState.__init__ = met


def _ranks(rank: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def nobody_listens(trial: Trial) -> None:
    """The reader of its output goes, at once or in the middle: its work must be whole all the same."""
    reading, writing = os.pipe()
    running = trial.start(lambda: os.close(reading), stdout=writing)
    os.close(writing)
    if trial.rng.random() < 0.5:
        running.ended_within(trial.moment())
    os.close(reading)
    ended = running.wait(LIMIT)
    trial.ended.append(ended)
    if trial.world.result(trial.command) != trial.trials.undisturbed[trial.command.name]:
        trial.wrong.append("disturbed: what it made is not whole")


FAULTS: dict[str, Callable[[Trial], None]] = {
    "killed": killed,
    "asked to end": asked_to_end,
    "the n-th write fails": nth_write_fails,
    "a full disk": full_disk,
    "a read-only place": read_only,
    "two at once": two_at_once,
    "a photo changes": photo_changes,
    "a rank dies": rank_dies,
    "nobody listens": nobody_listens,
}


def _suits(kind: str, command: Command) -> bool:
    if command.faults:
        return kind in command.faults
    if kind == "a photo changes":
        return command.photos is not None
    return command.ranks or kind != "a rank dies"


def _must_say(trial: Trial, ended: Ended) -> None:
    if ended.code not in (0, -signal.SIGKILL) and not ended.signed:
        trial.wrong.append("disturbed: no sentence of ours")


# --- disks


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


def _may_mount(folder: Path) -> bool:
    folder.mkdir()
    try:
        _mount("-t", "tmpfs", "-o", "size=4096", "tmpfs", str(folder))
    except (OSError, subprocess.CalledProcessError):
        return False
    subprocess.run(["umount", str(folder)], check=True)
    return True


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep
        return
    folder = tempfile.mkdtemp(prefix="faults-")  # a TemporaryDirectory would be taken away by every fork's end
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="N", help="this trial alone")
    parser.add_argument("--folder", type=Path, help="a new folder that is kept")
    options = parser.parse_args()
    begin = time.monotonic()
    failed, kinds = 0, Counter[str]()
    with _folder(options.folder) as root:
        trials = Trials(root.resolve(), options.seed)
        disk = "a small disk is mounted" if trials.may_mount else "nothing may be mounted: full disks are pretended"
        print(f"seed {options.seed}; {len(trials.commands)} commands; {disk}", flush=True)
        for number in range(options.trials) if options.only is None else [options.only]:
            kind, command, wrong, ended = trials.run(number)
            kinds[kind] += 1
            if wrong or options.only is not None:
                print(f"trial {number}: {kind}, {command}: {'; '.join(wrong) or 'right'}")
                print("\n".join(f"    {each}" for each in ended), flush=True)
            failed += bool(wrong)
        trials.hub.close()
    done = sum(kinds.values())
    print(json.dumps(kinds))
    print(f"{done} trials, {failed} failed, seed {options.seed}, {time.monotonic() - begin:.0f} s")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
