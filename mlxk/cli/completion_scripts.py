"""What `mlxk completion SHELL` prints. Each asks `mlxk completion SHELL --for WORDS` and gets lines of
KIND<tab>VALUE<tab>HELP; KIND is "plain", "file" or "dir", and in the first line "word": what is completed.

bash gets the line and not its words: it breaks them at `:` and `=`, its old version on macOS (3.2) elsewhere
than new ones. It puts what is found in place of the last of these parts only.
"""

from __future__ import annotations

BASH = r"""_mlxk_completion() {
    local kind value help full current prefix
    COMPREPLY=()
    current="${COMP_WORDS[COMP_CWORD]}"
    case "$current" in ':'|'=') current='' ;; esac
    prefix=''
    while IFS=$'\t' read -r kind value help; do
        case "$kind" in
            word)
                full="$value"
                if [ "${full%"$current"}$current" = "$full" ]; then prefix="${full%"$current"}"; fi ;;
            plain) COMPREPLY[${#COMPREPLY[@]}]="${value#"$prefix"}" ;;
            file|dir)
                while IFS= read -r value; do
                    COMPREPLY[${#COMPREPLY[@]}]="$value"
                done < <(compgen -A "${kind/dir/directory}" -- "$current") ;;
        esac
    done < <(command mlxk completion bash --for -- "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
    return 0
}
complete -F _mlxk_completion mlxk
"""

ZSH = r"""#compdef mlxk
_mlxk() {
    local -a described
    local line kind value help
    while IFS= read -r line; do
        kind="${line%%$'\t'*}"
        value="${${line#*$'\t'}%%$'\t'*}"
        help="${line##*$'\t'}"
        case "$kind" in
            plain) described+=("${value//:/\\:}${help:+:$help}") ;;
            file) _files ;;
            dir) _files -/ ;;
        esac
    done < <(command mlxk completion zsh --for -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)
    if (( $#described )); then
        _describe -V mlxk described
    fi
}
if [[ "$zsh_eval_context[-1]" == loadautofunc ]]; then
    _mlxk "$@"
else
    compdef _mlxk mlxk
fi
"""

FISH = r"""function __mlxk_complete
    set -l words (commandline -opc) (commandline -ct)
    command mlxk completion fish --for -- $words[2..-1] 2>/dev/null | while read -l -d \t kind value help
        switch $kind
            case plain
                printf '%s\t%s\n' $value $help
            case file
                __fish_complete_path (commandline -ct)
            case dir
                __fish_complete_directories (commandline -ct)
        end
    end
end
complete --command mlxk --no-files --arguments '(__mlxk_complete)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
