# Sourced by the Makefile and by scripts/bootstrap: where the project keeps what it brings along.
export BERTH_CACHE="${BERTH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/berth}"
# uv, and the pinned kubectl and helm once `python -m testbed binaries` has brought them.
for folder in uv/bin tools; do
  case ":$PATH:" in *":$BERTH_CACHE/$folder:"*) ;; *) export PATH="$BERTH_CACHE/$folder:$PATH" ;; esac
done
