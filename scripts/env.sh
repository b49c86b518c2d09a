# Sourced by the Makefile and by scripts/bootstrap: where the project keeps what it brings along.
export BERTH_CACHE="${BERTH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/berth}"
case ":$PATH:" in *":$BERTH_CACHE/uv/bin:"*) ;; *) export PATH="$BERTH_CACHE/uv/bin:$PATH" ;; esac
