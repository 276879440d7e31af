# Sourced by setup.sh, demo.sh and test.sh: sets up a virtual environment in .venv with this package and some extras.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="$ROOT/.venv/bin/python"

fail() {
    printf '%s\n' "$@" >&2
    exit 2
}

usable_python() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python3.14; do
        if usable_python "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

make_venv() {
    local python
    command -v git >/dev/null || fail "git is missing: sudo apt-get install -y git"
    python="$(find_python)" || fail "Python 3.11 to 3.14 is missing: sudo apt-get install -y python3 python3-venv"
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
        fail "Python's venv module is missing: sudo apt-get install -y python3-venv"
    echo "Making .venv with $("$python" --version)"
    "$python" -m venv "$ROOT/.venv"
}

# Install what requirement files pin; pip refuses a file whose sha256 is not among theirs.
install_pinned() {
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --require-hashes "$@"
}

# install EXTRA...: bring .venv up to date, unless it was already made from the same files with these extras.
install() {
    usable_python "$PYTHON" || make_venv
    local fingerprint stamp="$ROOT/.venv/installed" pins="$ROOT/scripts/requirements" extras="$*"
    # onnxruntime must not be added where setup.sh --gpu installed onnxruntime-gpu: both own the same folder.
    if "$PYTHON" -m pip show -q onnxruntime-gpu >/dev/null 2>&1; then
        extras="${extras/cpu/gpu}"
    fi
    fingerprint="$(cat "$ROOT/setup.py" "$pins"/*.txt | sha256sum | cut -d' ' -f1)"
    [ "$(head -n 1 "$stamp" 2>/dev/null)" = "$fingerprint" ] || echo "$fingerprint" >"$stamp.new"
    local extra missing=""
    for extra in $extras; do
        if [ -e "$stamp.new" ] || ! grep -qx "$extra" "$stamp"; then
            missing="$missing,$extra"
        fi
    done
    [ -n "$missing" ] || return 0
    echo "Installing into .venv: this package with${missing//,/ } (a few minutes the first time)"
    local files=()
    case " $extras " in
    *" gpu "*) files=(-r "$pins/gpu.txt") ;;
    *)
        # The build of torch for CPUs where pip finds it, which is not in the default index.
        if install_pinned --no-deps -r "$pins/torch-cpu.txt" 2>/dev/null; then
            files=(-r "$pins/cpu.txt")
        else
            files=(-r "$pins/cpu-default-index.txt")
        fi
        ;;
    esac
    case " $extras " in
    *" dev "*) files+=(-r "$pins/dev.txt") ;;
    esac
    install_pinned "${files[@]}"
    # Built with the pinned setuptools, since an isolated build would fetch one that nothing pins.
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e "$ROOT"
    [ ! -e "$stamp.new" ] || mv "$stamp.new" "$stamp"
    for extra in $extras; do
        grep -qx "$extra" "$stamp" || echo "$extra" >>"$stamp"
    done
}

fetch_background_model() {
    (cd "$ROOT" && "$PYTHON" -m miner weights download "$1") >/dev/null
}
