#!/bin/sh
# Copies the models that the image ships into the model store, where the store lacks them; what is there stays.
# usage: seed_model_store.sh SHIPPED STORE
#
# A version is complete or absent in the store, and several pods may run this at once: each copies into a folder of
# its own, and a rename decides, which fails when another was first.
set -eu

shipped=$1
store=$2
# What pods that were killed in the middle left behind; none takes an hour. (Another pod's may vanish while find looks.)
find "$store" -maxdepth 1 -name '.seed-*' -mmin +60 -exec rm -rf {} + 2>/dev/null || true
staging=$(mktemp -d "$store/.seed-XXXXXXXX")
trap 'rm -rf "$staging"' EXIT

for model in "$shipped"/*/; do
    [ -d "$model" ] || continue
    name=$(basename "$model")
    # A store that knows the model has its own versions and promotions of it.
    [ ! -e "$store/$name" ] || continue
    cp -R "$model" "$staging/$name"
    sync -f "$staging"
    # -T: a folder that appeared meanwhile must not be moved into; a full one is not overwritten.
    if problem=$(mv -T "$staging/$name" "$store/$name" 2>&1); then
        echo "seeded the model $name"
    elif [ -e "$store/$name" ]; then
        echo "the model $name came from another pod"
    else
        echo "$problem" >&2
        exit 1
    fi
done
