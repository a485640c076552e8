#!/bin/bash
# Builds the images without a Docker engine and runs them as containers are run in production: as a user without rights,
# on a read-only root file system, without capabilities. Needs Debian's buildah and debootstrap, and root.
#
#   deploy/prove.sh [serve] [full]
#
# BASE_IMAGE   the base to build on; unset: Debian bookworm with its Python 3.11, made here by debootstrap
# WORK         where images and the base are kept (default /var/tmp/fovea-images); remove it to start afresh
# PIP          a pip whose configuration the build shall use (default: python3 -m pip)

set -euo pipefail
cd "$(dirname "$0")/.."

targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(serve full)
work=${WORK:-/var/tmp/fovea-images}
mkdir -p "$work"
scratch=$(mktemp -d "$work/run-XXXXXX")
server=
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
buildah=(buildah --root "$work/storage" --runroot "$work/runroot")

finish() {
    # The first process of the enclosure; with it go all others.
    [ -z "$server" ] || pkill -KILL -P "$server" || true
    "${buildah[@]}" umount --all >/dev/null 2>&1 || true
    rm -rf "$scratch"
}
trap finish EXIT

say() { printf '\n== %s\n' "$*"; }
die() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
megabytes() { awk -v bytes="$1" 'BEGIN { printf "%.0f MB", bytes / 1e6 }'; }
folder_bytes() { du --summarize --apparent-size --block-size=1 "$1" | cut -f1; }

make_base() {
    "${buildah[@]}" inspect --type image fovea-base >/dev/null 2>&1 && return
    say "A base: Debian bookworm with python3 and python3-venv"
    debootstrap --variant=minbase --include=python3,python3-venv bookworm "$work/base" >"$work/debootstrap.log"
    rm -rf "$work"/base/var/cache/apt/* "$work"/base/var/lib/apt/lists/* "$work"/base/var/log/*
    local container
    container=$("${buildah[@]}" from scratch)
    "${buildah[@]}" add --quiet "$container" "$work/base" / >/dev/null
    "${buildah[@]}" commit --quiet --rm "$container" fovea-base >/dev/null
    rm -rf "$work/base"
}

# pip inside of the build reaches packages as pip on this machine does: its configuration goes in as a secret, and the
# files and folders that it names are mounted for the length of the build. Nothing of it stays in an image.
pip_arguments() {
    ${PIP:-python3 -m pip} config list \
        | sed -nE "s/^(global|install|:env:)\.([a-z-]+)='(.*)'$/\2\t\3/p" \
        | awk -F'\t' '{ value[$1] = $2 } END { print "[global]"; for (key in value) print key " = " value[key] }' \
        > "$scratch/pip.conf"
    printf '%s\n' "--secret=id=pip_conf,src=$scratch/pip.conf"
    # An index in a folder named simple has its files beside it.
    sed 1d "$scratch/pip.conf" | cut -d= -f2- | tr ' ' '\n' | sed -nE 's#^(file://)?(/.*)#\2#p' | sed 's#/simple$##' | sort -u \
        | while read -r path; do
            if [ -e "$path" ]; then printf '%s\n' "--volume=$path:$path:ro"; fi
        done
}

build() {
    say "Build $1"
    local arguments
    mapfile -t arguments < <(pip_arguments)
    "${buildah[@]}" bud --format docker --layers --target "$1" --tag "fovea-$1" "${arguments[@]}" \
        --build-arg "BASE_IMAGE=${BASE_IMAGE:-localhost/fovea-base}" \
        --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)" . >"$work/build-$1.log" 2>&1 \
        || { tail -30 "$work/build-$1.log"; die "the image $1 was not built"; }
}

setting() { "${buildah[@]}" inspect --type image --format "$2" "fovea-$1"; }

# Runs what follows as the image's user on the image's file system ($ROOT), as a container would. Volumes are what Docker
# makes of them when they are new: copies of what the image has there.
enclosure='
    mount --make-rprivate /
    mount --bind "$ROOT" "$ROOT"
    mount -t proc -o nosuid,nodev,noexec proc "$ROOT/proc"
    mount -t tmpfs -o mode=755 tmpfs "$ROOT/dev"
    for device in null zero full random urandom; do
        touch "$ROOT/dev/$device"
        mount --bind "/dev/$device" "$ROOT/dev/$device"
    done
    mkdir -m 1777 "$ROOT/dev/shm"
    mount -t tmpfs -o mode=1777,size=64m tmpfs "$ROOT/dev/shm"
    mount -t tmpfs -o mode=1777,size=1g tmpfs "$ROOT/tmp"
    mount --bind "$VOLUMES/model_store" "$ROOT/app/model_store"
    mount --bind "$VOLUMES/workspace" "$ROOT/app/workspace"
    mount -o remount,bind,ro "$ROOT"
    cd "$ROOT"
    exec chroot "$ROOT" /usr/bin/setpriv --reuid "$USER_ID" --regid "$GROUP_ID" --clear-groups --no-new-privs \
        --bounding-set=-all --inh-caps=-all /usr/bin/env -i --chdir=/app "$@"
'
inside=(unshare --mount --pid --fork bash -euc "$enclosure" inside)

prove() {
    local target=$1 root user port answer image
    local -a variables entrypoint command health
    make_base
    build "$target"

    say "What $target is"
    "${buildah[@]}" rm --all >/dev/null 2>&1 || true
    root=$("${buildah[@]}" mount "$("${buildah[@]}" from --pull-never "localhost/fovea-$target")")
    local base_root
    base_root=$("${buildah[@]}" mount "$("${buildah[@]}" from --pull-never "${BASE_IMAGE:-localhost/fovea-base}")")
    local total own
    total=$(folder_bytes "$root")
    own=$((total - $(folder_bytes "$base_root")))
    printf 'size %s, of which the base is %s; models %s\n' "$(megabytes "$total")" "$(megabytes $((total - own)))" \
        "$(megabytes "$(folder_bytes "$root/app/model_store")")"
    user=$(setting "$target" '{{.Docker.Config.User}}')
    export USER_ID=${user%:*} GROUP_ID=${user#*:}
    mapfile -t variables < <(setting "$target" '{{range .Docker.Config.Env}}{{println .}}{{end}}' | sed '/^$/d')
    mapfile -t entrypoint < <(setting "$target" '{{range .Docker.Config.Entrypoint}}{{println .}}{{end}}' | sed '/^$/d')
    mapfile -t command < <(setting "$target" '{{range .Docker.Config.Cmd}}{{println .}}{{end}}' | sed '/^$/d')
    mapfile -t health < <(setting "$target" '{{range .Docker.Config.Healthcheck.Test}}{{println .}}{{end}}' | sed '/^$/d;1d')
    echo "user $user, runs: ${entrypoint[*]} ${command[*]}"
    [ "$USER_ID" -gt 0 ] || die "the user is root"
    export ROOT=$root VOLUMES=$scratch/volumes
    mkdir -p "$VOLUMES"
    rm -rf "${VOLUMES:?}"/*
    cp -a "$root/app/model_store" "$root/app/workspace" "$VOLUMES/"

    if [ "$target" = serve ]; then
        [ "$total" -le 500000000 ] || die "larger than 500 MB"
        "${inside[@]}" "${variables[@]}" python -c 'import importlib.util as u, sys; sys.exit(any(map(u.find_spec, ["tensorflow", "keras", "pip"])))' \
            || die "TensorFlow, Keras or pip is in the image"
        echo "TensorFlow, Keras, pip: absent"
    fi
    if "${inside[@]}" "${variables[@]}" sh -c 'touch /app/x || touch /opt/fovea/x || touch /etc/x' 2>/dev/null; then
        die "the root file system can be written to"
    fi
    echo "root file system: read-only"

    say "$target refuses to listen for everybody without keys"
    if "${inside[@]}" "${variables[@]}" "${entrypoint[@]}" "${command[@]}"; then die "it started"; fi

    say "$target answers"
    port=$((20000 + RANDOM % 10000))
    variables+=(FOVEA_ALLOW_ANONYMOUS=true "FOVEA_PORT=$port")
    "${inside[@]}" "${variables[@]}" "${entrypoint[@]}" "${command[@]}" 2>"$scratch/log" &
    server=$!
    for _ in $(seq 600); do
        kill -0 "$server" 2>/dev/null || { cat "$scratch/log"; die "it ended"; }
        curl --silent --fail "http://127.0.0.1:$port/health/ready" >/dev/null && break
        sleep 0.1
    done
    curl --silent --fail "http://127.0.0.1:$port/health/ready" || { cat "$scratch/log"; die "not ready after 60 s"; }
    echo
    "${inside[@]}" "${variables[@]}" "${health[@]}" || die "the health check says that it does not live"
    echo "health check: passes"
    image=$(find "$VOLUMES/model_store" -path '*/golden/*' -type f \
        \( -name '*.png' -o -name '*.jpg' -o -name '*.jpeg' -o -name '*.webp' \) | sort | head -1)
    [ -n "$image" ] || die "the image ships no model with a golden example to ask about"
    answer=$(curl --silent --fail --data-binary "@$image" -H 'Content-Type: application/octet-stream' \
        "http://127.0.0.1:$port/api/v1/predict?top_k=2")
    echo "$answer"
    [[ $answer == *'"probability"'* ]] || die "that is no prediction"
    ps -o rss= --ppid "$(pgrep -P "$server")" -p "$(pgrep -P "$server")" | awk '{ sum += $1 } END { printf "resident memory: %.0f MB\n", sum / 1024 }'

    if [ "$target" = full ]; then
        say "full trains"
        local job state
        job=$(curl --silent --fail -H 'Content-Type: application/json' -d '{"dataset": "shapes", "model": "proof", "epochs": 2}' \
            "http://127.0.0.1:$port/api/v1/training-jobs" | sed -E 's/.*"id": ?"([^"]+)".*/\1/')
        for _ in $(seq 1800); do
            state=$(curl --silent --fail "http://127.0.0.1:$port/api/v1/training-jobs/$job" | sed -E 's/.*"state": ?"([a-z]+)".*/\1/')
            case $state in succeeded) break ;; failed | cancelled) break ;; esac
            sleep 1
        done
        echo "job $job: $state"
        if [ "$state" != succeeded ]; then
            curl --silent "http://127.0.0.1:$port/api/v1/training-jobs/$job/log" || true
            die "it did not succeed"
        fi
    fi

    say "$target stops when asked"
    kill -TERM "$(pgrep -P "$server")"
    local status=0
    wait "$server" || status=$?
    server=
    tail -2 "$scratch/log"
    [ "$status" -eq 0 ] || die "exit status $status"
    echo "exit status 0"
}

for target in "${targets[@]}"; do prove "$target"; done
say "Proved: ${targets[*]}"
