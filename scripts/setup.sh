#!/bin/sh
# Completes .venv so that `bhlm` runs from it; does nothing when it is complete already.
#
#   sh scripts/setup.sh          the package alone: enough for `make demo`
#   sh scripts/setup.sh dev      the package, the optional engines, the tools of development
#   sh scripts/setup.sh --which  print the interpreter that a new .venv would be made from
#
# Interpreters are tried in this order: the one of .venv, uv's, python3.13, python3.12,
# python3, pyenv's 3.13 and 3.12.
set -eu
cd "$(dirname "$0")/.."

log() { printf '%s\n' "$*" >&2; }

# A candidate counts only if it runs: a shim on PATH may exist and fail when called.
is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1
}

# Debian ships python3 without what `python3 -m venv` needs.
makes_venvs() {
    "$1" -c 'import venv, ensurepip' >/dev/null 2>&1
}

find_interpreter() {
    for name in python3.13 python3.12 python3; do
        if is_new_enough "$name" && makes_venvs "$name"; then
            command -v "$name"
            return
        fi
    done
    if command -v pyenv >/dev/null 2>&1; then
        for version in 3.13 3.12; do
            prefix=$(pyenv prefix "$version" 2>/dev/null) || continue
            if is_new_enough "$prefix/bin/python" && makes_venvs "$prefix/bin/python"; then
                printf '%s\n' "$prefix/bin/python"
                return
            fi
        done
    fi
    return 1
}

# uv would download its newest Python otherwise, which numba may not know yet.
uv_request='>=3.12,<3.14'

has_uv() { command -v uv >/dev/null 2>&1; }

uv_interpreter() { has_uv && uv python find "$uv_request" 2>/dev/null; }

fail_without_interpreter() {
    log "bhlm needs Python 3.12 or newer with its venv module, and found none: no .venv, uv," \
        "python3.13, python3.12, python3 or pyenv could give one; install Python 3.12 or newer" \
        "(on Debian with python3-venv) or uv, then run make again"
    exit 1
}

# --seed puts pip into the new .venv, as `python -m venv` does.
create_venv() {
    if has_uv; then
        rm -rf .venv
        if uv venv --quiet --seed --python "$uv_request" .venv && is_new_enough .venv/bin/python; then
            return
        fi
        log "uv gave no Python $uv_request; looking further"
    fi
    interpreter=$(find_interpreter) || fail_without_interpreter
    log "creating .venv from $interpreter"
    rm -rf .venv
    "$interpreter" -m venv .venv
}

install_package() {
    if has_uv; then
        uv pip install --quiet --python .venv/bin/python --editable "$1"
        return
    fi
    .venv/bin/python -m pip --version >/dev/null 2>&1 ||
        .venv/bin/python -m ensurepip --upgrade >/dev/null
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable "$1"
}

case "${1-}" in
--which)
    if is_new_enough .venv/bin/python; then
        printf '%s\n' "$PWD/.venv/bin/python"
    else
        uv_interpreter || find_interpreter || fail_without_interpreter
    fi
    exit
    ;;
dev) target='.[dev]' stamps='.venv/.installed-dev' ;;
'') target='.' stamps='.venv/.installed .venv/.installed-dev' ;;
*)
    log "scripts/setup.sh: unknown argument '$1'; give dev, --which or nothing"
    exit 2
    ;;
esac

# A stamp holds the checksum of pyproject.toml and the place: a moved .venv is installed anew.
state="$(cksum <pyproject.toml) $PWD"

if is_new_enough .venv/bin/python; then
    for stamp in $stamps; do
        if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$state" ]; then
            exit 0
        fi
    done
else
    [ ! -e .venv ] || log ".venv has no working Python 3.12 or newer; making it anew"
    create_venv
fi
log "installing bhlm into .venv (a few minutes the first time)"
install_package "$target"
# Where Python may not write bytecode, each command would compile the whole package again.
.venv/bin/python -m compileall -q bhlm bhlm_command.py
printf '%s\n' "$state" >".venv/.installed${1:+-$1}"
