#!/usr/bin/env bash
# One run of normswap inside a GitHub workflow: reports beside each other, the summary on the page of the run.
set -euo pipefail
reports="$RUNNER_TEMP/normswap"
mkdir -p "$reports"
options=(--report "$reports/report.json" --sarif "$reports/report.sarif" --markdown "$reports/summary.md" --annotations)
read -r -a further <<<"$ARGUMENTS"
case "$COMMAND" in
  convert)
    read -r -a targets <<<"$TARGETS"
    for target in "${targets[@]}"; do options+=(--to "$target"); done
    if [[ -n "$CONVERTED" ]]; then options+=(--output "$CONVERTED"); fi
    models=("$MODEL")
    ;;
  check) models=("$MODEL" "$CONVERTED") ;;
  *)
    echo "::error title=normswap::command is convert or check, not $COMMAND"
    exit 2
    ;;
esac
code=0
normswap "$COMMAND" "${options[@]}" "${further[@]}" -- "${models[@]}" || code=$?
{
  echo "report=$reports/report.json"
  echo "sarif=$reports/report.sarif"
} >>"$GITHUB_OUTPUT"
if [[ -f "$reports/summary.md" ]]; then cat "$reports/summary.md" >>"$GITHUB_STEP_SUMMARY"; fi
exit "$code"
