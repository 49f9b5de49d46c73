#!/bin/sh
# tools/venv.sh DIR EXTRA: a virtual environment DIR with the package installed in place and its EXTRA (may be empty).
# DIR/.want records what was installed, so that a call with nothing changed does nothing.
#   PY=python3.12            another interpreter
#   TORCH_INDEX=URL          take torch and torchvision from this wheel index (for example a CPU build)
#   SITE=/path/site-packages use the packages found there instead of installing them
set -eu
dir=${1:-.venv}; extra=${2-dev}; py=${PY:-python3}; want="$dir/.want"

settings="$(cat settings.ini setup.py pyproject.toml | cksum | cut -d' ' -f1) $PWD"
had=$(sed -n 2p "$want" 2>/dev/null || true)
if [ "$(sed -n 1p "$want" 2>/dev/null || true)" = "$settings" ]; then
  case " $had " in *" $extra "*) exit 0;; esac
  [ -n "$extra" ] || exit 0
fi

if [ ! -x "$dir/bin/python" ]; then
  "$py" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; $py is $("$py" -V 2>&1). Give another: PY=python3.12" >&2; exit 1; }
  flags=
  if "$py" -c 'import torch, torchvision; assert tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 9)' 2>/dev/null; then
    flags=--system-site-packages
  fi
  "$py" -m venv $flags "$dir" || {
    echo "$py -m venv failed. On Debian and Ubuntu: apt install python3-venv" >&2; rm -rf "$dir"; exit 1; }
fi
bin="$dir/bin"
if [ -n "${SITE:-}" ]; then echo "$SITE" > "$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"; fi
if "$bin/python" -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("torch") and u.find_spec("torchvision")))'; then
  echo "torch is already installed for $bin/python: it is reused."
else
  if [ -n "${TORCH_INDEX:-}" ]; then
    echo "Installing torch and torchvision from $TORCH_INDEX"
    "$bin/pip" install -q torch torchvision --index-url "$TORCH_INDEX"
  else
    echo "torch is not installed: on Linux x86_64 this downloads about 3 GB and fills 5.7 GB in $dir (some minutes)."
    echo "To reuse one: install torch and torchvision for $py first and remove $dir. For a small CPU build: make ... TORCH_INDEX=URL of its wheel index."
  fi
fi

all=$(printf '%s\n' $had $extra | sort -u | tr '\n' ' ' | sed 's/ $//')
"$bin/pip" install -q -e ".${all:+[$(echo "$all" | tr ' ' ',')]}"
printf '%s\n%s\n' "$settings" "$all" > "$want"
