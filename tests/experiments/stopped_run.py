"""Runs run.py and, after so many seconds, sends itself a signal: stopped_run.py SIGNAL SECONDS RUN.PY [ARGUMENTS]."""

import os
import runpy
import sys
import threading

if __name__ == "__main__":
    _, number, seconds, *arguments = sys.argv
    timer = threading.Timer(float(seconds), os.kill, (os.getpid(), int(number)))
    timer.daemon = True
    timer.start()
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")
