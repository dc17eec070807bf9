#!/usr/bin/env bash
# All of logplex in one go: a server, an app that logs, a drain, tails. Ends by itself and leaves nothing behind.
#
#     .venv/bin/pip install -q . && bash examples/quickstart.sh
#
# LOGPLEX (default: `logplex` of the virtual environment beside it, or of the search path) is what is run.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${LOGPLEX:-}" ] && [ -x "$here/../.venv/bin/logplex" ]; then LOGPLEX=$here/../.venv/bin/logplex; fi
LOGPLEX=${LOGPLEX:-logplex}
PYTHON=${PYTHON:-python3}

work=$(mktemp -d)
export LOGPLEX_DATA_DIR=$work/data
unset LOGPLEX_URL LOGPLEX_LOGS_URL
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$work"' EXIT

show() { printf '\n$ %s\n' "$*" | sed "s|$LOGPLEX|logplex|;s|$here|examples|g"; "$@"; }
heard() { # wait until a line of a pipe matches, and go on reading it in the background
    local line
    while IFS= read -r line <&"$1"; do
        printf '%s\n' "$line"
        [[ $line == *$2* ]] && return
    done
    echo 'it ended before it was ready' >&2
    return 1
}

echo '# A server on ports of the kernel'\''s choice; its drains may reach this machine.'
mkfifo "$work/server" "$work/receiver"
$LOGPLEX serve --http 127.0.0.1:0 --syslog 127.0.0.1:0 --drain-allow 127.0.0.0/8 2>"$work/server" &
server=$!
exec 3<"$work/server"
heard 3 event=ready
cat <&3 >"$work/server.log" &

echo; echo '# An app with two sources; each line of the answer is a log input URL.'
show $LOGPLEX channels create shop --token app --token heroku | tee "$work/urls" | sed 's/t\.[0-9a-f-]*/t.…/'
app=$(sed -n '/^http/p' "$work/urls" | sed -n 1p)
platform=$(sed -n '/^http/p' "$work/urls" | sed -n 2p)

echo; echo '# A receiver for a drain, and the drain.'
"$PYTHON" "$here/http_receiver.py" --listen 127.0.0.1:0 --lines 46 >"$work/received" 2>"$work/receiver" &
receiver=$!
exec 4<"$work/receiver"
heard 4 'listening on' >"$work/listening"
drain=$(sed 's/listening on //' "$work/listening")
show $LOGPLEX drains add "$drain" -a shop

echo; echo '# Something that logs: a build, a router, a dyno, and this shell.'
"$PYTHON" "$here/build.py" "$app" --seconds 0
"$PYTHON" "$here/router.py" "$platform" --count 20 --seconds 0
"$PYTHON" "$here/dyno.py" "$app" --count 10 --seconds 0
echo "hello from $(uname -s)" | show $LOGPLEX ship -a shop --ps shell.1

show $LOGPLEX tail shop --no-follow -n 10
show $LOGPLEX tail shop --no-follow --ps api
show $LOGPLEX tail shop --no-follow --source heroku --field 'status>=400'

echo; echo '# The receiver has got every line.'
wait $receiver
wc -l <"$work/received"
show $LOGPLEX drains -a shop
show $LOGPLEX status shop

echo; echo '# And the end: what is left is delivered, then the server stops.'
kill -TERM $server
wait $server
