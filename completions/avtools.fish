# Completion for avtools in fish: source this file, or put it into ~/.config/fish/completions.

function __avtools
    set -l line (commandline -cp | string collect)
    set -l program (commandline -opc | string replace -r '^~/' "$HOME/")[1]
    env COMP_LINE=$line _AVTOOLS_COMPLETE=fish_complete $program 2>/dev/null
end

complete --command avtools --no-files --keep-order --arguments '(__avtools)'
