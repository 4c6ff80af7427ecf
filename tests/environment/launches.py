"""Launches of SGLang, vLLM, Transformer Engine, Ray and Slurm jobs in many styles, each with what is to be found in it.

‹FI›, ‹256›, ‹TOKEN›, ‹MODE› and ‹TE› stand for the variables. A row: file name, text, what it sets (variable: value and
line; value None where the text does not settle it), and the variable of the first error, None where there is none.
"""

# ruff: noqa: E501  a launch is easier to read in one line

from __future__ import annotations

NAMES = {
    "FI": "FLASHINFER_NVFP4_4OVER6", "256": "FLASHINFER_NVFP4_4OVER6_E4M3_USE_256",
    "TOKEN": "SGLANG_FLASHINFER_NVFP4_PER_TOKEN_ACTIVATION", "MODE": "FLASHINFER_NVFP4_4OVER6_ERR_MODE",
    "TE": "NVTE_NVFP4_4OVER6", "STRICT": "FLASHINFER_DISABLE_FP4_QUANT_FAST_MATH",
}  # fmt: skip


def spelt(text: str) -> str:
    for key, name in NAMES.items():
        text = text.replace(f"‹{key}›", name)
    return text


SGL = "python3 -m sglang.launch_server --model-path /m"
ROWS = [
    # shell: the many ways to hand over a variable
    ("one_line.sh", f"‹FI›=1 ‹256›=true {SGL}\n", {"FI": ("1", 1), "256": ("true", 1)}, "256"),
    ("backslashes.sh", f"‹FI›=1 \\\n‹256›=true \\\n  {SGL} \\\n  --tp 8\n", {"FI": ("1", 1), "256": ("true", 2)}, "256"),
    ("nohup.sh", f"nohup env ‹FI›=true {SGL} > log 2>&1 &\n", {"FI": ("true", 1)}, "FI"),
    ("exec.sh", f"#!/bin/sh\nset -eu\nexport ‹FI›=true\nexec {SGL}\n", {"FI": ("true", 3)}, "FI"),
    ("taskset.sh", f"taskset -c 0-31 nice -n 5 env ‹FI›=yes {SGL}\n", {"FI": ("yes", 1)}, "FI"),
    ("torchrun.sh", "‹TE›=true torchrun --nproc-per-node 8 pretrain_gpt.py\n", {"TE": ("true", 1)}, "TE"),
    ("mpirun.sh", f"mpirun -np 8 -x ‹FI›=1 -x ‹256›=true {SGL}\n", {"FI": ("1", 1), "256": ("true", 1)}, "256"),
    ("mpich.sh", f"mpiexec -genv ‹FI› true -n 8 {SGL}\n", {"FI": ("true", 1)}, "FI"),
    ("srun_export.sh", f"srun --export=ALL,‹FI›=1,‹256›=yes {SGL}\n", {"FI": ("1", 1), "256": ("yes", 1)}, "256"),
    ("pbs.sh", f"#!/bin/bash\n#PBS -v ‹FI›=true\n{SGL}\n", {"FI": ("true", 2)}, "FI"),
    ("declare.sh", f"declare -x ‹FI›=true\n{SGL}\n", {"FI": ("true", 1)}, "FI"),
    ("typeset.ksh", f"typeset -x ‹FI›='true'\n{SGL}\n", {"FI": ("true", 1)}, "FI"),
    ("allexport.sh", f"set -o allexport\n‹FI›=true\nset +o allexport\n{SGL}\n", {"FI": ("true", 2)}, "FI"),
    ("later_export.sh", f"‹FI›=true\nexport ‹FI›\n{SGL}\n", {"FI": ("true", 1)}, "FI"),
    ("setenv.csh", f"setenv ‹FI› true\n{SGL}\n", {"FI": ("true", 1)}, "FI"),
    ("config.fish", f"set -gx ‹FI› true\n{SGL}\n", {"FI": ("true", 1)}, "FI"),
    ("quotes.sh", f"export ‹FI›=\"tr\"'ue'\n{SGL}\n", {"FI": ("true", 1)}, "FI"),
    ("array.sh", f"ENVS=(-e ‹FI›=1 -e ‹256›=true)\ndocker run \"${{ENVS[@]}}\" lmsysorg/sglang {SGL}\n",
     {"FI": (None, 1), "256": (None, 1)}, "256"),
    ("args.sh", f"ARGS=\"-e ‹FI›=true\"\nARGS+=\" --gpus all\"\ndocker run $ARGS lmsysorg/sglang {SGL}\n", {"FI": (None, 1)}, "FI"),
    ("function.sh", f"serve() {{\n  ‹FI›=true {SGL}\n}}\nserve\n", {"FI": ("true", 2)}, "FI"),
    ("function_word.sh", f"function go {{\n  {SGL}\n}}\nexport ‹FI›=true\ngo\n", {"FI": ("true", 4)}, "FI"),
    ("loop.sh", f"for i in 0 1; do\n  CUDA_VISIBLE_DEVICES=$i ‹FI›=true {SGL} &\ndone\nwait\n", {"FI": ("true", 2)}, "FI"),
    ("case.sh", f"case $1 in\n  fast) export ‹FI›=true;;\n  *) export ‹FI›=0;;\nesac\n{SGL}\n", {"FI": ("true", 2)}, "FI"),
    ("and.sh", f"[ \"$A\" = 1 ] && export ‹FI›=true\n{SGL}\n", {"FI": ("true", 1)}, "FI"),
    ("subshell.sh", f"( export ‹FI›=true; {SGL} ) &\n", {"FI": ("true", 1)}, "FI"),
    ("bash_c.sh", f"bash -lc 'export ‹FI›=true; {SGL}'\n", {"FI": ("true", 1)}, "FI"),
    ("ssh_inner.sh", f"ssh node2 \"cd /w && ‹FI›=1 ‹256›=true {SGL}\"\n", {"FI": ("1", 1), "256": ("true", 1)}, "256"),
    ("ssh_heredoc.sh", f"ssh node2 <<'EOF'\nexport ‹FI›=true\n{SGL}\nEOF\n", {"FI": ("true", 2)}, "FI"),
    ("docker_multi.sh", f"docker run --rm --gpus all \\\n  --env ‹FI›=1 \\\n  --env=‹256›=true \\\n  lmsysorg/sglang:v0.5.23 \\\n  {SGL}\n",
     {"FI": ("1", 2), "256": ("true", 3)}, "256"),
    ("docker_exec.sh", f"docker exec -e ‹FI›=true srv {SGL}\n", {"FI": ("true", 1)}, "FI"),
    ("docker_inner.sh", f"docker run img bash -c \"‹FI›=true {SGL}\"\n", {"FI": ("true", 1)}, "FI"),
    ("podman.sh", f"podman run --env ‹FI›=true img {SGL}\n", {"FI": ("true", 1)}, "FI"),
    ("passed_known.sh", f"export ‹FI›=true\ndocker run -e ‹FI› img {SGL}\n", {"FI": ("true", 1)}, "FI"),
    ("kubectl_exec.sh", f"kubectl exec pod -- env ‹FI›=true {SGL}\n", {"FI": ("true", 1)}, "FI"),
    ("kubectl_set.sh", "kubectl set env deployment/sgl ‹FI›=true\n", {"FI": ("true", 1)}, "FI"),
    ("helm.sh", "helm upgrade s ./c --set-string env[0].name=‹FI› --set-string env[0].value=true\n", {"FI": ("true", 1)}, "FI"),
    ("helm_map.sh", "helm upgrade s ./c --set-string extraEnv.‹FI›=true\n", {"FI": ("true", 1)}, "FI"),
    ("ray_inline.sh", "ray job submit --runtime-env-json='{\"env_vars\": {\"‹FI›\": \"true\"}}' -- python3 t.py\n", {"FI": ("true", 1)}, "FI"),
    ("ray_escaped.sh", 'ray job submit --runtime-env-json="{\\"env_vars\\": {\\"‹FI›\\": \\"true\\"}}" -- python3 t.py\n', {"FI": ("true", 1)}, "FI"),
    ("singularity.sh", f"SINGULARITYENV_‹FI›=true\nsingularity exec --env ‹FI›=true s.sif {SGL}\n", {"FI": ("true", 2)}, "FI"),
    ("enroot.sh", f"enroot start --env ‹FI›=true sgl {SGL}\n", {"FI": ("true", 1)}, "FI"),
    ("cat_env.sh", f"cat > run.env <<EOF\n‹FI›=true\nEOF\ndocker run --env-file run.env img {SGL}\n", {"FI": ("true", 2)}, "FI"),
    ("tee.sh", "echo 'export ‹FI›=true' | sudo tee -a /etc/profile.d/x.sh\n", {"FI": ("true", 1)}, "FI"),
    ("github.sh", 'echo "‹FI›=true" >> "$GITHUB_ENV"\n', {"FI": ("true", 1)}, "FI"),
    ("python_c.sh", "python3 -c \"import os; os.environ['‹FI›'] = 'true'\"\n", {"FI": ("true", 1)}, "FI"),
    ("conda.sh", "conda env config vars set ‹FI›=true\n", {"FI": ("true", 1)}, "FI"),
    ("near.sh", f"export FLASHINFERENCE_NVFP4_4OVER6=1\n{SGL}\n", {}, None),
    # Slurm
    ("two.sbatch", f"#!/bin/bash\n#SBATCH -N 2\nexport ‹FI›=1\nexport ‹256›=true\nsrun --ntasks=2 {SGL}\n",
     {"FI": ("1", 3), "256": ("true", 4)}, "256"),
    # Dockerfile
    ("Dockerfile", "FROM lmsysorg/sglang:latest\nENV ‹FI›=1 \\\n    ‹256›=true\nCMD [\"python3\", \"-m\", \"sglang.launch_server\"]\n",
     {"FI": ("1", 2), "256": ("true", 3)}, "256"),
    ("old.Dockerfile", "FROM img\nENV ‹FI› true\n", {"FI": ("true", 2)}, "FI"),
    ("build.Dockerfile", "FROM img AS build\nENV ‹FI›=true\nFROM build\nCMD serve\n", {"FI": ("true", 2)}, "FI"),
    # YAML
    ("docker-compose.yml", "services:\n  s:\n    image: lmsysorg/sglang\n    environment:\n      ‹FI›: 1\n      ‹256›: true\n",
     {"FI": ("1", 5), "256": ("true", 6)}, "256"),
    ("list.compose.yaml", "services:\n  s:\n    environment:\n    - ‹FI›=1\n    - \"‹256›=true\"\n", {"FI": ("1", 4), "256": ("true", 5)}, "256"),
    ("anchors.yml", "x-env: &e\n  ‹FI›: '1'\nservices:\n  s:\n    environment:\n      <<: *e\n      ‹256›: 'true'\n",
     {"FI": ("1", 2), "256": ("true", 7)}, "256"),
    ("pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: c\n    image: vllm/vllm-openai\n"
     "    env:\n    - name: ‹FI›\n      value: \"1\"\n    - name: ‹256›\n      value: \"1\"\n", {"FI": ("1", 9), "256": ("1", 11)}, "256"),
    ("config_map.yaml", "kind: ConfigMap\nmetadata: {name: m}\ndata:\n  ‹FI›: \"true\"\n", {"FI": ("true", 4)}, "FI"),
    ("script_map.yaml", f"kind: ConfigMap\nmetadata: {{name: m}}\ndata:\n  run.sh: |\n    #!/bin/bash\n    export ‹FI›=true\n    {SGL}\n",
     {"FI": ("true", 6)}, "FI"),
    ("template.yaml", "spec:\n  containers:\n  - name: c\n    env:\n    - name: ‹FI›\n      value: {{ .Values.four | quote }}\n"
     "    - name: ‹256›\n      value: \"true\"\n", {"FI": (None, 5), "256": ("true", 7)}, "256"),
    ("dynamo.yaml", "apiVersion: nvidia.com/v1alpha1\nkind: DynamoGraphDeployment\nmetadata: {name: d}\nspec:\n  services:\n    Worker:\n"
     "      envs:\n      - name: ‹FI›\n        value: 'true'\n      extraPodSpec:\n        mainContainer:\n          args: [python3 -m dynamo.sglang]\n",
     {"FI": ("true", 8)}, "FI"),
    ("folded.yml", f"services:\n  s:\n    command: >\n      bash -c \"\n      export ‹FI›=true &&\n      {SGL}\"\n", {"FI": ("true", 5)}, "FI"),
    ("actions.yml", f"jobs:\n  t:\n    env:\n      ‹FI›: 'true'\n    steps:\n    - run: {SGL}\n", {"FI": ("true", 4)}, "FI"),
    ("ansible.yml", "- hosts: all\n  tasks:\n  - name: serve\n    shell: serve\n    environment:\n      ‹FI›: 'true'\n", {"FI": ("true", 6)}, "FI"),
    ("skypilot.yaml", f"envs:\n  ‹FI›: true\nrun: |\n  {SGL}\n", {"FI": ("true", 2)}, "FI"),
    ("ray_serve.yaml", "applications:\n- name: a\n  runtime_env:\n    env_vars:\n      ‹FI›: \"true\"\n", {"FI": ("true", 5)}, "FI"),
    # JSON, TOML and the like
    ("task.json", '{"containerDefinitions": [{"name": "c", "environment": [\n {"name": "‹FI›", "value": "true"}]}]}\n', {"FI": ("true", 2)}, "FI"),
    ("value_first.json", '{"env": [{"value": "true",\n "name": "‹FI›"}]}\n', {"FI": ("true", 2)}, "FI"),
    ("devcontainer.jsonc", '{\n  // a comment\n  "containerEnv": {\n    "‹FI›": "true",\n  }\n}\n', {"FI": ("true", 4)}, "FI"),
    ("settings.toml", "[env]\n‹FI› = \"true\"\n", {"FI": ("true", 2)}, "FI"),
    ("supervisord.conf", f"[program:s]\ncommand={SGL}\nenvironment=‹FI›=\"1\",‹256›=\"true\"\n", {"FI": ("1", 3), "256": ("true", 3)}, "256"),
    ("main.tf", 'resource "x" "y" {\n  environment = {\n    ‹FI› = "true"\n  }\n}\n', {"FI": ("true", 3)}, "FI"),
    ("pm2.config.js", "module.exports = {apps: [{env: {\n  ‹FI›: 'true',\n}}]}\n", {"FI": ("true", 2)}, "FI"),
    # Python
    ("launch.py", 'import os\nos.environ["‹FI›"] = "1"\nos.environ["‹256›"] = "true"\nimport sglang\n', {"FI": ("1", 2), "256": ("true", 3)}, "256"),
    ("default.py", "import os\nos.environ.setdefault('‹FI›', 'true')\n", {"FI": ("true", 2)}, "FI"),
    ("popen.py", "import os, subprocess\nsubprocess.Popen(cmd, env={**os.environ, '‹FI›': '1',\n  '‹256›': 'true'})\n", {"FI": ("1", 2), "256": ("true", 3)}, "256"),
    ("dict.py", "env = dict(os.environ, ‹FI›=\"true\")\n", {"FI": ("true", 1)}, "FI"),
    ("ray.py", "import ray\nray.init(runtime_env={'env_vars': {'‹FI›': 'true'}})\n", {"FI": ("true", 2)}, "FI"),
    ("modal.py", 'image = image.env({"‹FI›": "true"})\n', {"FI": ("true", 1)}, "FI"),
    ("put.py", "import os\nos.putenv('‹FI›', 'true')\n", {"FI": ("true", 2)}, "FI"),
    ("expression.py", "import os\nos.environ['‹FI›'] = 'true' if fast else '0'\n", {"FI": (None, 2)}, "FI"),
    # the rest
    ("serve.bat", "@echo off\r\nset ‹FI›=1 \r\npython -m sglang.launch_server\r\n", {"FI": ("1 ", 2)}, "FI"),
    ("serve.ps1", "$env:‹FI› = \"true\"\npython -m sglang.launch_server\n", {"FI": ("true", 1)}, "FI"),
    ("Makefile", f"export ‹FI› ?= true\nserve: ; {SGL}\n", {"FI": (None, 1)}, "FI"),
    ("recipe.mk", f"run:\n\t‹FI›=true {SGL}\n", {"FI": ("true", 2)}, "FI"),
    ("target.mk", f"run: export ‹FI› = true\nrun:\n\t{SGL}\n", {"FI": ("true", 1)}, "FI"),
    ("README.md", f"# Serve\n\nRun\n\n```bash\nexport ‹FI›=true\n{SGL}\n```\n", {"FI": ("true", 6)}, "FI"),
    ("override.service", f"[Service]\nEnvironment=\"‹FI›=true\"\nExecStart=/usr/bin/env {SGL}\n", {"FI": ("true", 2)}, "FI"),
    ("exec_env.service", f"[Service]\nExecStart=/usr/bin/env ‹FI›=true {SGL}\n", {"FI": ("true", 2)}, "FI"),
    (".envrc", "export ‹FI›=true\n", {"FI": ("true", 1)}, "FI"),
    ("prod.env", "# four over six\n‹FI›=1\n‹256›=TRUE\n", {"FI": ("1", 2), "256": ("TRUE", 3)}, "256"),
]  # fmt: skip
