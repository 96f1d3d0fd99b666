import os
import sys

print("what a module prints does not disturb the answer")
print("giving up", file=sys.stderr)
sys.stderr.flush()
os._exit(3)
