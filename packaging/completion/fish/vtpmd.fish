# fish completion for vtpmd(8); installed to /usr/share/fish/vendor_completions.d/vtpmd.fish
# made by tools/make_completion.py: change the table of commands instead

function __vtpmd_instances
    set -l directory /etc/vtpm.d
    set -q VTPM_CONFIG_DIRECTORY; and set directory $VTPM_CONFIG_DIRECTORY
    for file in $directory/*.toml
        string replace -r '\\.toml$' '' -- (string split / -- $file)[-1]
    end
end

# Words, and where one begins with file= the files behind it.
function __vtpmd_sources
    printf '%s\n' $argv
    set -l path (string replace -f -r '^file=' '' -- (commandline -ct))
    and string replace -r '^' 'file=' -- (__fish_complete_path "$path")
end

# The options with a value of what follows $argv, the words that choose a command.
function __vtpmd_valued
    switch "$argv"
        case ''
            string split ' ' -- '--config --user'
    end
end

# Is the cursor behind these words that choose a command, and at this argument? Without a number: at any.
function __vtpmd_at -a wanted number
    set -l context ''
    set -l position 0
    set -l skip no
    set -l valued (__vtpmd_valued '')
    for word in (commandline -opc)[2..-1]
        if test $skip = yes
            set skip no
        else if contains -- $word $valued
            set skip yes
        else if not string match -q -- '-?*' $word
            switch "$context"
                case '*'
                    set position (math $position + 1)
            end
        end
    end
    test "$context" = "$wanted"; and begin
        test -z "$number"; or test $position = "$number"
    end
end

function __vtpmd_is_path
    string match -q '*/*' -- (commandline -ct)
end

complete -c vtpmd -f
complete -c vtpmd -n '__vtpmd_at ""' -l config -r -F -d 'read FILE; the instance\'s name is the file\'s, without .toml'
complete -c vtpmd -n '__vtpmd_at ""' -l foreground -d 'log to standard error, not to the journal'
complete -c vtpmd -n '__vtpmd_at ""' -l user -x -a '(__fish_complete_users)' -d 'serve as USER when started as root (default: vtpm)'
complete -c vtpmd -n '__vtpmd_at ""' -l help -d 'show this help'
complete -c vtpmd -n '__vtpmd_at ""' -l version -d 'show the version'
complete -c vtpmd -n '__vtpmd_at "" 0' -a '(__vtpmd_instances)' -d 'NAME'
