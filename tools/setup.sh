#!/usr/bin/env bash
# Sets up `.venv` with everything eqssl_speech needs. A second call does nothing and takes no time.
#
#   tools/setup.sh [EXTRA]      EXTRA: extras of setup.py, default `test` (`check` adds ruff and mypy)
#
# PYTHON=/path/to/python tools/setup.sh chooses the interpreter (3.10, 3.11 or 3.12).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

extra="${1:-test}"
venv=.venv

say() { printf 'setup: %s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.12 python3.11 python3.10 python; do
        if is_supported "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "no Python 3.10, 3.11 or 3.12 is found; install one, or name it with PYTHON=/path/to/python."
}

# Debian and Ubuntu split pip off Python. Without root its package can still be fetched and unpacked.
pip_wheel_from_debian() {
    local folder="$1"
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    (
        cd "$folder"
        apt-get download python3-pip-whl >/dev/null 2>&1 || exit 1
        dpkg-deb -x python3-pip-whl_*.deb . || exit 1
    ) || return 1
    find "$folder" -name 'pip-*.whl' | head -n 1
}

bootstrap_pip() {
    local python="$1" site wheel folder
    "$python" -m venv --without-pip "$venv" >/dev/null 2>&1 || return 1
    site="$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

    if "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m pip install --quiet --target "$site" pip && return
    fi

    folder="$(mktemp -d)"
    wheel="$(pip_wheel_from_debian "$folder")" || wheel=
    if [ -n "$wheel" ]; then
        PYTHONPATH="$wheel" "$venv/bin/python" -m pip install --quiet pip || wheel=
    fi
    rm -rf "$folder"
    [ -n "$wheel" ]
}

make_venv() {
    local python
    python="$(find_python)"
    say "making $venv with $("$python" --version 2>&1) ($python)"
    rm -rf "$venv"

    "$python" -m venv "$venv" >/dev/null 2>&1 && return
    rm -rf "$venv"
    bootstrap_pip "$python" && return
    rm -rf "$venv"
    if command -v uv >/dev/null; then
        uv venv --quiet --seed --python "$python" "$venv" && return
    fi
    fail "$python cannot make a virtual environment with pip; on Debian and Ubuntu \`apt-get install python3-venv\` mends that."
}

warn_if_disk_is_small() {
    local free_mib
    free_mib="$(df -Pm . | awk 'NR == 2 { print $4 }')"
    if [ "${free_mib:-99999}" -lt 10000 ]; then
        say "only ${free_mib} MiB are free here, and a fresh installation takes about 7 GB."
    fi
}

# Runs pip with its output in a log, and says every 20 seconds where it is.
install() {
    local log="$venv/setup.log" start=$SECONDS pid said=0
    warn_if_disk_is_small
    say "installing (a fresh installation takes about 7 GB and some minutes; log: $log)"

    # Python compiles on import what is imported, a small part of it all.
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off \
        --no-compile --editable ".[$extra]" >"$log" 2>&1 &
    pid=$!
    trap 'kill "$pid" 2>/dev/null || true' EXIT

    while kill -0 "$pid" 2>/dev/null; do
        sleep 1
        if [ $((SECONDS - start - said)) -ge 20 ]; then
            said=$((SECONDS - start))
            say "$said s: $(tail -n 1 "$log" | sed 's/^ *//' | cut -c 1-70)"
        fi
    done

    trap - EXIT
    if ! wait "$pid"; then
        tail -n 15 "$log" >&2
        fail "pip could not install the packages; the lines above and $log say why."
    fi
    say "ready after $((SECONDS - start)) s"
}

is_alive() {
    [ -x "$venv/bin/python" ] && is_supported "$venv/bin/python" &&
        "$venv/bin/python" -m pip --version >/dev/null 2>&1
}

# The path is part of the stamp, because an environment does not survive being moved.
stamp_file="$venv/.eqssl_speech-$extra"
stamp="$(cat setup.py pyproject.toml | cksum) $PWD"

if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp_file" 2>/dev/null)" = "$stamp" ]; then
    exit 0
fi

is_alive || make_venv
install
printf '%s\n' "$stamp" >"$stamp_file"
