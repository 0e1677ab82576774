"""A script that leaves a chain of processes: each forks the next one and ends.

Killing one of these processes by its id always comes too late: it has forked and ended. The chain
ends by itself after two seconds, or `GENERATIONS`, and then writes into the named file.
"""

SECONDS = 2
GENERATIONS = 20_000

# Arguments: the file, and whether each process gets its own session.
CHAIN = f"""
import os, sys, time
if os.fork():
    print("script ends")
    sys.stdout.flush()
    os._exit(0)
os.setsid()
null = os.open(os.devnull, os.O_RDWR)
for stream in (0, 1, 2):
    os.dup2(null, stream)
end = time.monotonic() + {SECONDS}
for _ in range({GENERATIONS}):
    if time.monotonic() > end:
        break
    if os.fork():
        os._exit(0)
    if sys.argv[2] == "sessions":
        os.setsid()
with open(sys.argv[1], "a") as marker:
    marker.write("the chain ended by itself")
"""
