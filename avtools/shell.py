"""Completion in bash, zsh and fish.

The shell's function hands the line up to the cursor to the program (COMP_LINE, with _AVTOOLS_COMPLETE=bash_complete),
which answers with what click's command tree offers there.  The scripts are ours because click's leave spaces,
colons, wildcards and `--option=` to chance.  `completions/` holds what `_AVTOOLS_COMPLETE=bash_source avtools` prints.
"""

import os
import sys
from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem, ShellComplete, split_arg_string

from avtools.errors import AvtoolsError

BASH = """\
# Completion for avtools in bash 4.4 or newer: source this file, or put it where bash-completion looks.

_avtools() {
    local answer
    COMPREPLY=()
    if [[ ${COMP_WORDS[COMP_CWORD - 1]} == [\\<\\>]* ]]; then # a redirection: any file
        compopt -o default
        return
    fi
    while IFS= read -r answer; do
        [[ $answer == file,* ]] && compopt -o filenames # bash quotes the names, and ends folders with '/'
        COMPREPLY+=("${answer#*,}")
    done < <(COMP_LINE=${COMP_LINE:0:COMP_POINT} COMP_WORD=$2 _AVTOOLS_COMPLETE=bash_complete "${1/#~\\//$HOME/}" 2>/dev/null)
}

complete -o nosort -F _avtools avtools
"""

ZSH = """\
#compdef avtools
# Completion for avtools in zsh: put this file into a folder of $fpath before compinit, or source it afterwards.

_avtools() {
    local answer line ret=1
    local -a offers
    line="${(j: :)${(@qq)${(@Q)words[1,CURRENT-1]}}} ${(qq)${(Q)PREFIX}}"
    [[ $PREFIX == -*=* ]] && compset -P 1 '*='
    for answer in "${(@f)$(COMP_LINE=$line _AVTOOLS_COMPLETE=zsh_complete ${~words[1]} 2>/dev/null)}"; do
        case $answer in
            (files,) _files -/ && ret=0 ;;
            (files,*) _files -g "*.(#i)(${answer#*,})(-.)" && ret=0 ;;
            (offer,*) offers+=("${answer#*,}") ;;
        esac
    done
    (( $#offers )) && _describe -V avtools offers && ret=0
    return ret
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _avtools "$@"
else
    compdef _avtools avtools
fi
"""

FISH = """\
# Completion for avtools in fish: source this file, or put it into ~/.config/fish/completions.

function __avtools
    set -l line (commandline -cp | string collect)
    set -l program (commandline -opc | string replace -r '^~/' "$HOME/")[1]
    env COMP_LINE=$line _AVTOOLS_COMPLETE=fish_complete $program 2>/dev/null
end

complete --command avtools --no-files --keep-order --arguments '(__avtools)'
"""


class Shell(ShellComplete):
    """What the shells have in common."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the cursor, and the beginning of the word at it, without their quotes."""
        cursor = "\0"  # tells an empty word at the cursor from none
        words = split_arg_string(os.environ.get("COMP_LINE", "") + cursor)
        return words[1:-1], words[-1].removesuffix(cursor)

    def complete(self) -> str:
        args, word = self.get_completion_args()
        offers = self.get_completions(args.copy(), word)
        # what stands before an option's value in the same word; click drops it from the values that it offers
        option = word.partition("=")[0] + "=" if word.startswith("-") and "=" in word else ""
        return "".join(line + "\n" for line in self.lines(offers, option, word, "--" in args))

    def lines(self, offers: list[CompletionItem], option: str, word: str, dashes: bool) -> Iterable[str]:
        """The answer in the form that the shell's script reads."""
        raise NotImplementedError


class Bash(Shell):
    name, source_template = "bash", BASH

    def lines(self, offers, option, word, dashes):
        head = word[: len(word) - len(self.replaced(word))]
        whole = [(item.type, option + item.value) for item in listed(offers, dashes)]
        return [f"{kind},{value.removeprefix(head)}" for kind, value in whole]

    def replaced(self, word: str) -> str:
        """The end of `word` that readline replaces: it breaks words at '=' and ':', outside of quotes."""
        typed = os.environ.get("COMP_WORD", "")
        ends = (typed, "".join(split_arg_string(typed)[:1]), word)
        return next(end for end in ends if word.endswith(end))


class Zsh(Shell):
    name, source_template = "zsh", ZSH

    def lines(self, offers, option, word, dashes):
        for item in offers:
            if item.type == "files":  # zsh knows best how to find files
                yield f"files,{'|'.join(item.suffixes)}"
            else:
                help_ = ":" + " ".join(item.help.split()) if item.help else ""
                yield "offer," + str(item.value).replace(":", "\\:") + help_


class Fish(Shell):
    name, source_template = "fish", FISH

    def lines(self, offers, option, word, dashes):
        for item in listed(offers, dashes):
            yield f"{option}{item.value}\t{' '.join((item.help or '').split())}".rstrip("\t")


SHELLS = {shell.name: shell for shell in (Bash, Zsh, Fish)}


def listed(offers: list[CompletionItem], dashes: bool):
    """The offers, with the names of folders and files in place of those of type 'files'."""
    for item in offers:
        if item.type != "files":
            yield item
            continue
        for path in files(item.value, item.suffixes):
            # a name that looks like an option needs './' before it, unless '--' came before
            yield CompletionItem("./" + path if path.startswith("-") and not dashes else path, type="file")


def files(start: str, suffixes: tuple[str, ...]) -> list[str]:
    """Folders, and files with one of the suffixes (in any case), whose paths begin with `start`."""
    folder, name = os.path.split(start)
    head = start[: len(start) - len(name)]
    ends = tuple("." + suffix for suffix in suffixes)
    found = []
    try:
        with os.scandir(os.path.expanduser(folder) or ".") as entries:
            for entry in entries:
                hidden = entry.name.startswith(".") and not name
                if hidden or not entry.name.startswith(name) or "\n" in entry.name:
                    continue
                if entry.is_dir():
                    found.append(head + entry.name + "/")
                elif entry.name.lower().endswith(ends):
                    found.append(head + entry.name)
    except OSError:
        return []
    return sorted(found)


def answer(group: click.Group, instruction: str) -> int:
    """Print what a shell asks for with _AVTOOLS_COMPLETE (`bash_complete`, `fish_source`); give the exit status."""
    shell, _, wanted = instruction.partition("_")
    if shell not in SHELLS or wanted not in ("complete", "source"):
        print("_AVTOOLS_COMPLETE: bash, zsh or fish, then _source", file=sys.stderr)
        return 2
    completer = SHELLS[shell](group, {}, "avtools", "_AVTOOLS_COMPLETE")
    try:
        text = completer.source_template if wanted == "source" else completer.complete()
    except (click.ClickException, AvtoolsError):  # a line that is wrong before the cursor: nothing to offer
        return 0
    sys.stdout.buffer.write(os.fsencode(text))
    return 0
