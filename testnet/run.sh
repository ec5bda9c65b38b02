#!/bin/sh
# The local network: real pillars and nodes as processes on 127.0.0.1.
#
#   testnet/run.sh                      a demo: five pillars, four nodes, and what they survive
#   testnet/run.sh up --pillars 5 --nodes 4
#   testnet/run.sh status
#   testnet/run.sh down
#   testnet/run.sh chaos --seconds 30 --seed 1
#
# Works from any directory of a clean clone; needs only Go.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
bin=$here/.net/bin
mkdir -p "$bin"
go build -C "$here/.." -o "$bin/" ./cmd/obelisk ./testnet/local
exec "$bin/local" "$@"
