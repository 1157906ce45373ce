"""Bytes that nobody honest sends: mutated from valid ones, at everything that reads them between answer and verdict.

`python bench/verification/fuzz.py [--examples 1000000] [--seed 0] [--atheris SECONDS]`

No crash, no accept (see `fuzz_targets`), memory bounded: the process may use 256 MB of address space more than it
begins with, and of every 200th example the peak of what it allocates is traced. With `--atheris`, coverage-guided from
the same seeds (`pip install atheris` into the environment first). Writes results/fuzz.json.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import struct
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

RESULTS = Path(__file__).parent / "results" / "fuzz.json"
ROOM_BYTES = 256 * 2**20
TRACED_EVERY = 200
TRACED_MOST = 4 * 2**20
"""No example needs more, though a seed has up to 6 kB: what a length field promises is never allocated before it is
checked."""
MARKS = (
    "00 ff 7f 80 c0 c2 c3 90 9f 81 de0010 df0fffffff dc0001 dcffff ddffffffff dd7fffffff c4ff c5ffff c6ffffffff d9ff "
    "daffff dbffffffff cfffffffffffffffff d38000000000000000 cb7ff0000000000000 cb7ff8000000000000 cbfff0000000000000 "
    "ca7fc00000 7fc00000 7f800000 ff800000 80000000 ffffffff 53594331 53595231 53594231 53595131 0000000d"
)
"""Heads of msgpack values, floats that are no numbers, tags, in hexadecimal."""
WORDS = (b"null", b"1e999", b"-1", b"NaN", b"[[[[[[[[", b'"\\ud800"', b'{"', b"\xed\xa0\x80")
TOKENS = (*map(bytes.fromhex, MARKS.split()), *WORDS)


def mutate(source: random.Random, seeds: tuple[bytes, ...]) -> bytes:
    """Return a seed after one to eight changes: bits, bytes, numbers, cuts, repeats, splices."""
    data = bytearray(source.choice(seeds))
    for _ in range(1 if source.random() < 0.4 else source.randint(2, 8)):
        kind, size = source.randrange(9), len(data)
        at = source.randrange(size) if size else 0
        if kind == 0 and size:
            data[at] ^= 1 << source.randrange(8)
        elif kind == 1 and size:
            data[at] = source.randrange(256)
        elif kind == 2:
            token = source.choice(TOKENS)
            data[at : at + (len(token) if source.random() < 0.7 else 0)] = token
        elif kind == 3:
            del data[at : at + 1 + int(source.expovariate(0.1))]
        elif kind == 4:
            end = at + 1 + int(source.expovariate(0.05))
            data[at:at] = data[at:end] * source.choice((1, 1, 2, 50))
        elif kind == 5:
            other = source.choice(seeds)
            where = source.randrange(len(other) + 1)
            data[at:] = other[where:]
        elif kind == 6 and size >= 4:
            at = min(at, size - 4)
            number = struct.unpack_from(">I", data, at)[0] + source.choice((-1, 1, 16, -16, 2**31))
            struct.pack_into(">I", data, at, number % 2**32)
        elif kind == 7:
            data += source.randbytes(source.randint(1, 40))
        elif size:
            other_at = source.randrange(size)
            data[at], data[other_at] = data[other_at], data[at]
    return bytes(data)


def examples(source: random.Random, seeds: tuple[bytes, ...], count: int) -> Iterator[bytes]:
    """Yield so many examples that are no seed; one of fifty is noise from end to end."""
    left = count
    while left:
        data = source.randbytes(int(source.expovariate(0.01))) if source.random() < 0.02 else mutate(source, seeds)
        if data not in seeds:
            left -= 1
            yield data


def fuzz(count: int, seed: int) -> list[dict[str, Any]]:
    """Give each target its share; return for each what came of it.

    Raises:
        Whatever a target lets through: a crash, or `fuzz_targets.Accepted`; the example is written beside the results.
    """
    from fuzz_targets import TARGETS

    rows = []
    for index, target in enumerate(TARGETS):
        for honest in target.seeds:
            assert target.check(honest), f"a valid seed of {target.name} is refused"
        share = count // len(TARGETS) + (index < count % len(TARGETS))
        source, read, peak, started = random.Random(f"{seed} {target.name}"), 0, 0, time.process_time()
        for number, data in enumerate(examples(source, target.seeds, share)):
            is_traced = number % TRACED_EVERY == 0
            if is_traced:
                tracemalloc.start()
            try:
                read += target.check(data)
            except BaseException:
                RESULTS.with_name("fuzz-example.bin").write_bytes(data)
                raise
            if is_traced:
                peak = max(peak, tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
        assert peak <= TRACED_MOST, f"{target.name}: an example needed {peak} bytes"
        row = {"target": target.name, "examples": share, "read": read, "crashes": 0, "accepted": 0, "peak_bytes": peak}
        rows.append({**row, "cpu_s": round(time.process_time() - started, 1)})
        print(f"{target.name:>20} {share:9,} examples  {read:8,} could be read  peak {peak / 1024:7.0f} kB", flush=True)
    return rows


def bound_memory() -> int:
    """Let this process have so much address space more than it has now; return the limit in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return limit


def guided(seconds: int, seed: int) -> None:
    """Fuzz with atheris until the time is up, the first byte choosing the target; it ends the process."""
    import tempfile

    import atheris

    with atheris.instrument_imports(include=["steelyard"]):
        from fuzz_targets import TARGETS
    corpus = Path(tempfile.mkdtemp(prefix="steelyard-fuzz-"))
    for index, target in enumerate(TARGETS):
        for place, honest in enumerate(target.seeds):
            (corpus / f"{index}-{place}").write_bytes(bytes([index]) + honest)

    def once(data: bytes) -> None:
        if data:
            TARGETS[data[0] % len(TARGETS)].check(data[1:])

    options = [
        f"-max_total_time={seconds}",
        f"-seed={seed + 1}",
        "-rss_limit_mb=1024",
        "-max_len=8192",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], once)
    atheris.Fuzz()


def main() -> None:
    """Fuzz, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--examples", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atheris", type=int, default=0, metavar="SECONDS")
    options = parser.parse_args()
    if options.atheris:
        guided(options.atheris, options.seed)
        return
    from fuzz_targets import TARGETS

    limit = bound_memory()
    rows = fuzz(options.examples, options.seed)
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = {"examples": options.examples, "seed": options.seed, "address_space_limit_bytes": limit}
    result |= {"peak_resident_bytes": usage * 1024, "targets": rows}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{options.examples:,} examples over {len(TARGETS)} targets: no crash, nothing accepted; {RESULTS}")


if __name__ == "__main__":
    main()
