# Sourced by the other scripts: makes .venv, with the versions of constraints.txt, unless it is there already.
#
# Needs bash and Python >= 3.11 and nothing else. Offers
#   $root             the checkout
#   find_python       sets $python to an interpreter that will do, or explains and ends with 2
#   ensure_venv       makes or updates $root/.venv; returns within a blink where it is up to date
#
# A stamp inside .venv holds a hash of all that the installation depends on. It is written last, so an installation
# that was interrupted leaves none; a mark tells it from one that merely failed, and then .venv is made anew.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
stamp=$venv/.megacontext-stamp
unfinished=$venv/.megacontext-unfinished

say() { printf 'megacontext: %s\n' "$*" >&2; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

can_make_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

find_python() {
    local candidate incomplete=
    if [[ -n ${PYTHON:-} ]]; then
        # Asked for by name: another one would be a surprise.
        set -- "$PYTHON"
    else
        set -- python3 python3.13 python3.12 python3.11 python
    fi
    for candidate in "$@"; do
        is_new_enough "$candidate" || continue
        if can_make_venv "$candidate"; then
            # The interpreter itself, because in an activated .venv `python3` is inside what may be made anew.
            python=$("$candidate" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))')
            return 0
        fi
        incomplete=${incomplete:-$candidate}
    done
    if [[ -n $incomplete ]]; then
        say "making .venv needs Python's modules venv and ensurepip, $(command -v "$incomplete") lacks them;" \
            "install them (on Debian and Ubuntu the package python3-venv) or set PYTHON to another Python."
    elif [[ -n ${PYTHON:-} ]]; then
        say "Python 3.11 or newer is needed, PYTHON=$PYTHON is not one; set it to another or unset it."
    else
        say "Python 3.11 or newer is needed, none of $* is one; install it or set PYTHON to its path."
    fi
    exit 2
}

# What the installation depends on; empty where .venv has no working Python. The path counts, because a checkout
# that was moved has a .venv that points to the old place.
wanted_stamp() {
    "$venv/bin/python" -I -c '
import hashlib, pathlib, sys
digest = hashlib.sha256(f"{sys.version} {sys.argv[1]}".encode())
for name in ("pyproject.toml", "constraints.txt"):
    digest.update(pathlib.Path(sys.argv[1], name).read_bytes())
print(digest.hexdigest())' "$root" 2>/dev/null || true
}

is_current() {
    local wanted
    [[ -f $stamp && ! -e $unfinished ]] || return 1
    wanted=$(wanted_stamp)
    [[ -n $wanted && $(<"$stamp") == "$wanted" ]] || return 1
    # PYTHON, when given, must be the version that .venv has.
    [[ -z ${PYTHON:-} || $(minor_version "$PYTHON") == $(minor_version "$venv/bin/python") ]]
}

minor_version() { "$1" -c 'import sys; print(*sys.version_info[:2])' 2>/dev/null || true; }

is_usable() {
    [[ ! -e $unfinished ]] && is_new_enough "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1 &&
        [[ $(minor_version "$venv/bin/python") == $(minor_version "$python") || -z ${PYTHON:-} ]]
}

ensure_venv() {
    is_current && return 0
    # Two scripts at once must not install into the same folder; where flock is missing, they had better not.
    exec 9<"$root/tools/_venv.sh"
    if command -v flock >/dev/null && ! flock -n 9; then
        say "another installation is at work, waiting for it"
        flock 9
    fi
    is_current || install
    exec 9<&-
}

install() {
    find_python
    if ! is_usable; then
        say "making .venv with $("$python" --version)"
        "$python" -m venv --clear "$venv"
    fi
    rm -f "$stamp"
    : >"$unfinished"
    say "installing the versions of constraints.txt into .venv (once; takes a few minutes)"
    SECONDS=0
    if ! "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-input \
        -c "$root/constraints.txt" -e "$root[dev]"; then
        # pip has tidied up after itself; what it fetched so far is of use next time.
        rm -f "$unfinished"
        say "the installation failed, pip says why above; run the same command again once that is mended."
        exit 1
    fi
    wanted_stamp >"$stamp.tmp"
    mv "$stamp.tmp" "$stamp"
    rm -f "$unfinished"
    say "installed in $SECONDS s"
}
