"""Commands of SLURM that run the jobs of an array on this machine, as far as submitit asks for them."""

from pathlib import Path

# Each task of the array runs the script in the background; srun does what comes after its own options.
SBATCH = r"""#!/bin/bash
script=$1
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\)%.*/\1/p' "$script")
for task in $(seq 0 "$last"); do
  SLURM_JOB_ID=$((100 + task)) SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task SLURM_JOB_NUM_NODES=1 SLURM_NTASKS=1 \
    bash "$script" > /dev/null 2> /dev/null &
done
cp "$script" "$(dirname "$0")/submitted"
echo "Submitted batch job 7"
"""
SRUN = r"""#!/bin/bash
while [ "${1#-}" != "$1" ]; do
  case $1 in --output|--error) shift;; esac
  shift
done
SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_STEP_NUM_TASKS=1 exec "$@"
"""
SACCT = "#!/bin/bash\necho 'JobID|State|NodeList'\n"


def install(folder: Path) -> Path:
    """Write the commands into a folder, which is to go before others in PATH; returns it."""
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder
