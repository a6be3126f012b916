# fish completion for vtpmctl(8); installed to /usr/share/fish/vendor_completions.d/vtpmctl.fish
# made by tools/make_completion.py: change the table of commands instead

function __vtpmctl_instances
    set -l directory /etc/vtpm.d
    set -q VTPM_CONFIG_DIRECTORY; and set directory $VTPM_CONFIG_DIRECTORY
    for file in $directory/*.toml
        string replace -r '\\.toml$' '' -- (string split / -- $file)[-1]
    end
end

# Words, and where one begins with file= the files behind it.
function __vtpmctl_sources
    printf '%s\n' $argv
    set -l path (string replace -f -r '^file=' '' -- (commandline -ct))
    and string replace -r '^' 'file=' -- (__fish_complete_path "$path")
end

# The options with a value of what follows $argv, the words that choose a command.
function __vtpmctl_valued
    switch "$argv"
        case 'decode'
            string split ' ' -- '--tpm-version'
        case 'create'
            string split ' ' -- '--tpm-version --group --ek --pcr-banks --srk --profile --ca --key-file --passphrase-file --key-format --key-mode --platform-manufacturer --platform-model --platform-version --platform-serial --owner-password-file --owner-password-fd --owner-password-credential -pwdo --srk-password-file --srk-password-fd --srk-password-credential'
        case 'verify'
            string split ' ' -- '--key'
        case 'export'
            string split ' ' -- '--key'
        case 'import'
            string split ' ' -- '--key'
        case 'restore'
            string split ' ' -- '--generation'
        case 'rekey'
            string split ' ' -- '--from --to'
        case 'logs'
            string split ' ' -- '--lines -n'
        case 'established'
            string split ' ' -- '--locality'
        case 'info'
            string split ' ' -- '--flags'
        case 'createek'
            string split ' ' -- '--algorithm --owner-password-file --owner-password-fd --owner-password-credential -pwdo'
        case 'takeown'
            string split ' ' -- '--owner-password-file --owner-password-fd --owner-password-credential -pwdo --srk-password-file --srk-password-fd --srk-password-credential'
        case 'getpubek'
            string split ' ' -- '--algorithm --output --owner-password-file --owner-password-fd --owner-password-credential -pwdo'
        case 'ek'
            string split ' ' -- '--algorithm --output --owner-password-file --owner-password-fd --owner-password-credential -pwdo'
        case 'identity'
            string split ' ' -- '--ca --owner-password-file --owner-password-fd --owner-password-credential -pwdo'
        case 'ca show'
            string split ' ' -- '--ca'
        case 'ca create'
            string split ' ' -- '--ca'
        case 'ca export'
            string split ' ' -- '--output --ca'
        case 'ca import'
            string split ' ' -- '--key --signer --ca'
    end
end

# Is the cursor behind these words that choose a command, and at this argument? Without a number: at any.
function __vtpmctl_at -a wanted number
    set -l context ''
    set -l position 0
    set -l skip no
    set -l valued (__vtpmctl_valued '')
    for word in (commandline -opc)[2..-1]
        if test $skip = yes
            set skip no
        else if contains -- $word $valued
            set skip yes
        else if not string match -q -- '-?*' $word
            switch "$context"
                case ''
                    set context $word
                    set valued (__vtpmctl_valued "$context")
                case 'power'
                    set context "power $word"
                    set valued (__vtpmctl_valued "$context")
                case 'ca'
                    set context "ca $word"
                    set valued (__vtpmctl_valued "$context")
                case '*'
                    set position (math $position + 1)
            end
        end
    end
    test "$context" = "$wanted"; and begin
        test -z "$number"; or test $position = "$number"
    end
end

function __vtpmctl_is_path
    string match -q '*/*' -- (commandline -ct)
end

complete -c vtpmctl -f
complete -c vtpmctl -n '__vtpmctl_at ""' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at ""' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at ""' -l version -d 'show the version'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a list -d 'list the instances'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a status -d 'show what is known about an instance'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a check -d 'check a configuration without starting anything'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a doctor -d 'examine this host: accounts, devices, SELinux'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a decode -d 'say in words what a number or a message of a TPM means'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a create -d 'make a TPM as a manufacturer does, and its configuration'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a verify -d 'try whether a state is good, and which of its generations'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a export -d 'write a TPM with all that belongs to it to one file'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a import -d 'make an instance of what export wrote'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a restore -d 'have the generation before in the place of the current state'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a rekey -d 'encrypt the state of a stopped instance with another key'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a start -d 'start the service'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a stop -d 'stop the service; its device goes'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a restart -d 'restart the service, which its clients do not notice'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a enable -d 'start the service at each boot'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a disable -d 'do not start the service at boot any more'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a logs -d 'show what the service has said'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a edit -d 'change the configuration, which is checked before it takes the old one\'s place'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a power -d 'switch the TPM of a running service on or off, or reset it'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a capabilities -d 'list the control operations that the device supports'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a init -d 'power the TPM on, or reset it'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a reset -d 'reset the TPM, as a reset of the hardware does'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a shutdown -d 'shut the TPM down; its service ends'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a established -d 'show or reset the tpmEstablished bit'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a locality -d 'set the locality of the commands that follow'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a hash -d 'measure data: the hash sequence of a dynamic launch'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a cancel -d 'end the TPM command that is running'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a store-volatile -d 'store the volatile state, for the next init to go on with'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a save -d 'save state of the TPM to a file'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a load -d 'load state into a stopped TPM'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a info -d 'show what the TPM implementation says about itself, as JSON'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a config -d 'show which keys protect the state'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a buffer-size -d 'show or, while it is stopped, set the size of the TPM\'s buffer'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a createek -d 'make the endorsement key'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a takeown -d 'take ownership: set the owner\'s password'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a getpubek -d 'write the endorsement key\'s public part to a file and show it'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a ek -d 'show the endorsement key, its certificate or its fingerprint'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a identity -d 'show endorsement keys, certificates, and what has changed'
complete -c vtpmctl -n '__vtpmctl_at "" 0' -a ca -d 'show, hand out or replace the local certification authority'
complete -c vtpmctl -n '__vtpmctl_at "list"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "list"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "status"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "status"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "status" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "status" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "check"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "check"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "check" 0' -a '(__vtpmctl_instances)' -d 'NAME|FILE'
complete -c vtpmctl -n '__vtpmctl_at "check" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "doctor"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "doctor"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "doctor"' -l all -d 'all instances, as without a name'
complete -c vtpmctl -n '__vtpmctl_at "doctor"' -l failed -d 'of these, those that failed, hang, or are started again and again'
complete -c vtpmctl -n '__vtpmctl_at "doctor"' -l ima -d 'compare each installed file with its IMA signature'
complete -c vtpmctl -n '__vtpmctl_at "doctor" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "decode"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "decode"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "decode"' -l tpm-version -x -a '1.2 2.0' -d '1.2 or 2.0, of a number (default both)'
complete -c vtpmctl -n '__vtpmctl_at "decode"' -l secrets -d 'show authorization values and what else may be secret'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l tpm-version -x -a '1.2 2.0' -d '1.2 or 2.0 (default 2.0)'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l group -x -a '(__fish_complete_groups)' -d 'the group that may use the device (default vtpm)'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l ek -x -a 'rsa2048 rsa3072 rsa4096 ecc-p256 ecc-p384 ecc-p521' -d 'of a TPM 2.0, with commas between: rsa2048, rsa3072, rsa4096, ecc-p256, ecc-p384, ecc-p521 (default rsa2048,ecc-p384)'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l pcr-banks -x -a 'sha1 sha256 sha384 sha512' -d 'of a TPM 2.0, with commas between: sha1, sha256, sha384, sha512 (default sha256,sha384)'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l srk -x -a 'rsa2048 ecc-p256' -d 'of a TPM 2.0: rsa2048, ecc-p256 (default none)'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l profile -r -F -d 'of a TPM 2.0, with libtpms 0.10: a profile\'s name or file'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l ca -x -a '(__fish_complete_directories)' -d 'the CA\'s directory (default /var/lib/vtpm-ca)'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l key-file -r -F -d 'encrypt the state with the key in this file'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l passphrase-file -r -F -d 'or with one that is derived from the passphrase in this file'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l key-format -x -a 'auto hex binary pbkdf2 sha512' -d 'what that file holds: hex, binary, pbkdf2, sha512 (default hex, of a passphrase pbkdf2)'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l key-mode -x -a 'auto aes-cbc aes-256-cbc' -d 'the cipher: aes-cbc, aes-256-cbc (default as long as the key, of a passphrase aes-cbc)'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l platform-manufacturer -x -d 'who made the machine'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l platform-model -x -d 'its model'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l platform-version -x -d 'its version'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l platform-serial -x -d 'its serial number'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l idevid -d 'of a TPM 2.0: with an initial device identity'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l iak -d 'of a TPM 2.0: with an initial attestation key'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l no-certificates -d 'make keys only'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l owner-password-file -r -F -d 'a file with the owner\'s password'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l owner-password-fd -x -d 'an open descriptor with the owner\'s password'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l owner-password-credential -x -d 'a systemd credential with the owner\'s password'
complete -c vtpmctl -n '__vtpmctl_at "create"' -o pwdo -x -d 'the owner\'s password itself, which all users can then see'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l srk-password-file -r -F -d 'a file with the storage root key\'s password'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l srk-password-fd -x -d 'an open descriptor with the storage root key\'s password'
complete -c vtpmctl -n '__vtpmctl_at "create"' -l srk-password-credential -x -d 'a systemd credential with the storage root key\'s password'
complete -c vtpmctl -n '__vtpmctl_at "create" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "verify"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "verify"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "verify"' -l key -x -a '(__vtpmctl_sources none prompt file= fd= credential=)' -d 'the key of the state (default: what [state] says): none, prompt, file=PATH, fd=N or credential=NAME, then perhaps ,format=FORMAT and ,mode=MODE'
complete -c vtpmctl -n '__vtpmctl_at "verify" 0' -a '(__vtpmctl_instances)' -d 'NAME|FILE|DIR'
complete -c vtpmctl -n '__vtpmctl_at "verify" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "export"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "export"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "export"' -l volatile -d 'with the volatile state, for a TPM that is to go on where it was'
complete -c vtpmctl -n '__vtpmctl_at "export"' -l key -x -a '(__vtpmctl_sources none prompt file= fd= credential=)' -d 'encrypt the state in it with this key (default: what [state] says): none, prompt, file=PATH, fd=N or credential=NAME, then perhaps ,format=FORMAT and ,mode=MODE'
complete -c vtpmctl -n '__vtpmctl_at "export" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "export" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "export" 1' -F
complete -c vtpmctl -n '__vtpmctl_at "import"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "import"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "import"' -l overwrite -d 'replace a state that is there, which becomes the generation before'
complete -c vtpmctl -n '__vtpmctl_at "import"' -l key -x -a '(__vtpmctl_sources none prompt file= fd= credential=)' -d 'the key that it was exported with (default: what [state] says): none, prompt, file=PATH, fd=N or credential=NAME, then perhaps ,format=FORMAT and ,mode=MODE'
complete -c vtpmctl -n '__vtpmctl_at "import" 0' -F
complete -c vtpmctl -n '__vtpmctl_at "import" 1' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "restore"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "restore"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "restore"' -l generation -x -a 'previous backup' -d 'previous or backup (default: the first of them that is there)'
complete -c vtpmctl -n '__vtpmctl_at "restore" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "restore" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "rekey"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "rekey"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "rekey"' -l from -x -a '(__vtpmctl_sources none prompt file= fd= credential=)' -d 'the key until now (default none: the state is in clear): none, prompt, file=PATH, fd=N or credential=NAME, then perhaps ,format=FORMAT and ,mode=MODE'
complete -c vtpmctl -n '__vtpmctl_at "rekey"' -l to -x -a '(__vtpmctl_sources none prompt file= fd= credential=)' -d 'the key from now on (default: what [state] says), in the same forms'
complete -c vtpmctl -n '__vtpmctl_at "rekey" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "start"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "start"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "start" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "start" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "stop"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "stop"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "stop" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "stop" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "restart"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "restart"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "restart" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "restart" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "enable"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "enable"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "enable"' -l now -d 'and now'
complete -c vtpmctl -n '__vtpmctl_at "enable" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "enable" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "disable"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "disable"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "disable"' -l now -d 'and now'
complete -c vtpmctl -n '__vtpmctl_at "disable" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "disable" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "logs"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "logs"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "logs"' -l follow -o f -d 'go on with what comes'
complete -c vtpmctl -n '__vtpmctl_at "logs"' -l lines -o n -x -d 'only the last N'
complete -c vtpmctl -n '__vtpmctl_at "logs" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "logs" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "edit"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "edit"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "edit"' -l unit -d 'edit a drop-in of the unit instead, as systemctl edit does'
complete -c vtpmctl -n '__vtpmctl_at "edit" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "edit" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "power"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "power"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "power" 0' -a on -d 'power the TPM on; a running one is reset'
complete -c vtpmctl -n '__vtpmctl_at "power" 0' -a off -d 'power the TPM off; the service and the device stay'
complete -c vtpmctl -n '__vtpmctl_at "power" 0' -a reset -d 'reset the TPM, as a reset of the hardware does'
complete -c vtpmctl -n '__vtpmctl_at "power on"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "power on"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "power on"' -l keep-volatile -d 'do not delete stored volatile state once it was read'
complete -c vtpmctl -n '__vtpmctl_at "power on"' -l no-startup -d 'do not send the Startup command that [tpm] startup names'
complete -c vtpmctl -n '__vtpmctl_at "power on" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "power on" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "power off"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "power off"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "power off" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "power off" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "power reset"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "power reset"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "power reset"' -l no-startup -d 'do not send the Startup command that [tpm] startup names'
complete -c vtpmctl -n '__vtpmctl_at "power reset" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "power reset" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "capabilities"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "capabilities"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "capabilities" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "capabilities" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "init"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "init"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "init"' -l keep-volatile -d 'do not delete stored volatile state once it was read'
complete -c vtpmctl -n '__vtpmctl_at "init"' -l no-startup -d 'do not send the Startup command that [tpm] startup names'
complete -c vtpmctl -n '__vtpmctl_at "init" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "init" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "reset"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "reset"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "reset"' -l no-startup -d 'do not send the Startup command that [tpm] startup names'
complete -c vtpmctl -n '__vtpmctl_at "reset" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "reset" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "shutdown"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "shutdown"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "shutdown" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "shutdown" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "established"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "established"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "established"' -l reset -d 'reset the bit'
complete -c vtpmctl -n '__vtpmctl_at "established"' -l locality -x -a '3 4' -d 'the locality that resets it (default 3)'
complete -c vtpmctl -n '__vtpmctl_at "established" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "established" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "locality"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "locality"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "locality" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "locality" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "locality" 1' -a '0 1 2 3 4' -d 'N'
complete -c vtpmctl -n '__vtpmctl_at "hash"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "hash"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "hash" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "hash" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "hash" 1' -F
complete -c vtpmctl -n '__vtpmctl_at "cancel"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "cancel"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "cancel" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "cancel" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "store-volatile"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "store-volatile"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "store-volatile" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "store-volatile" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "save"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "save"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "save" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "save" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "save" 1' -a 'permanent volatile savestate' -d 'type'
complete -c vtpmctl -n '__vtpmctl_at "save" 2' -F
complete -c vtpmctl -n '__vtpmctl_at "load"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "load"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "load" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "load" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "load" 1' -a 'permanent volatile savestate' -d 'type'
complete -c vtpmctl -n '__vtpmctl_at "load" 2' -F
complete -c vtpmctl -n '__vtpmctl_at "info"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "info"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "info"' -l flags -x -a 'specification attributes features algorithms commands active-profile profiles runtime-attributes' -d 'a number, or names with commas: specification, attributes, features, algorithms, commands, active-profile, profiles, runtime-attributes'
complete -c vtpmctl -n '__vtpmctl_at "info" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "info" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "config"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "config"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "config" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "config" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "buffer-size"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "buffer-size"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "buffer-size" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "buffer-size" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "createek"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "createek"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "createek"' -l algorithm -x -a 'rsa2048 rsa3072 rsa4096 ecc-p256 ecc-p384 ecc-p521' -d 'of a TPM 2.0: rsa2048, rsa3072, rsa4096, ecc-p256, ecc-p384, ecc-p521 (default rsa2048)'
complete -c vtpmctl -n '__vtpmctl_at "createek"' -l force -d 'of a TPM 2.0: replace the key that is stored at its place'
complete -c vtpmctl -n '__vtpmctl_at "createek"' -l owner-password-file -r -F -d 'a file with the owner\'s password'
complete -c vtpmctl -n '__vtpmctl_at "createek"' -l owner-password-fd -x -d 'an open descriptor with the owner\'s password'
complete -c vtpmctl -n '__vtpmctl_at "createek"' -l owner-password-credential -x -d 'a systemd credential with the owner\'s password'
complete -c vtpmctl -n '__vtpmctl_at "createek"' -o pwdo -x -d 'the owner\'s password itself, which all users can then see'
complete -c vtpmctl -n '__vtpmctl_at "createek" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "createek" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "takeown"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "takeown"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "takeown"' -l owner-password-file -r -F -d 'a file with the owner\'s password'
complete -c vtpmctl -n '__vtpmctl_at "takeown"' -l owner-password-fd -x -d 'an open descriptor with the owner\'s password'
complete -c vtpmctl -n '__vtpmctl_at "takeown"' -l owner-password-credential -x -d 'a systemd credential with the owner\'s password'
complete -c vtpmctl -n '__vtpmctl_at "takeown"' -o pwdo -x -d 'the owner\'s password itself, which all users can then see'
complete -c vtpmctl -n '__vtpmctl_at "takeown"' -l srk-password-file -r -F -d 'a file with the storage root key\'s password'
complete -c vtpmctl -n '__vtpmctl_at "takeown"' -l srk-password-fd -x -d 'an open descriptor with the storage root key\'s password'
complete -c vtpmctl -n '__vtpmctl_at "takeown"' -l srk-password-credential -x -d 'a systemd credential with the storage root key\'s password'
complete -c vtpmctl -n '__vtpmctl_at "takeown" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "takeown" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "getpubek"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "getpubek"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "getpubek"' -l algorithm -x -a 'rsa2048 rsa3072 rsa4096 ecc-p256 ecc-p384 ecc-p521' -d 'of a TPM 2.0: rsa2048, rsa3072, rsa4096, ecc-p256, ecc-p384, ecc-p521 (default rsa2048)'
complete -c vtpmctl -n '__vtpmctl_at "getpubek"' -l output -r -F -d 'the file, which is replaced as a whole (default pubek.pem)'
complete -c vtpmctl -n '__vtpmctl_at "getpubek"' -l owner-password-file -r -F -d 'a file with the owner\'s password'
complete -c vtpmctl -n '__vtpmctl_at "getpubek"' -l owner-password-fd -x -d 'an open descriptor with the owner\'s password'
complete -c vtpmctl -n '__vtpmctl_at "getpubek"' -l owner-password-credential -x -d 'a systemd credential with the owner\'s password'
complete -c vtpmctl -n '__vtpmctl_at "getpubek"' -o pwdo -x -d 'the owner\'s password itself, which all users can then see'
complete -c vtpmctl -n '__vtpmctl_at "getpubek" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "getpubek" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "ek"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "ek"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "ek"' -l algorithm -x -a 'rsa2048 rsa3072 rsa4096 ecc-p256 ecc-p384 ecc-p521' -d 'of a TPM 2.0: rsa2048, rsa3072, rsa4096, ecc-p256, ecc-p384, ecc-p521 (default rsa2048)'
complete -c vtpmctl -n '__vtpmctl_at "ek"' -l pem -d 'as PEM (the default)'
complete -c vtpmctl -n '__vtpmctl_at "ek"' -l der -d 'as DER, which is binary'
complete -c vtpmctl -n '__vtpmctl_at "ek"' -l cert -d 'its certificate, not the key'
complete -c vtpmctl -n '__vtpmctl_at "ek"' -l fingerprint -d 'SHA-256 of the key\'s DER form'
complete -c vtpmctl -n '__vtpmctl_at "ek"' -l output -r -F -d 'to this file, which is replaced as a whole'
complete -c vtpmctl -n '__vtpmctl_at "ek"' -l owner-password-file -r -F -d 'a file with the owner\'s password'
complete -c vtpmctl -n '__vtpmctl_at "ek"' -l owner-password-fd -x -d 'an open descriptor with the owner\'s password'
complete -c vtpmctl -n '__vtpmctl_at "ek"' -l owner-password-credential -x -d 'a systemd credential with the owner\'s password'
complete -c vtpmctl -n '__vtpmctl_at "ek"' -o pwdo -x -d 'the owner\'s password itself, which all users can then see'
complete -c vtpmctl -n '__vtpmctl_at "ek" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "ek" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "identity"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "identity"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "identity"' -l ca -x -a '(__fish_complete_directories)' -d 'the local CA\'s directory (default /var/lib/vtpm-ca)'
complete -c vtpmctl -n '__vtpmctl_at "identity"' -l owner-password-file -r -F -d 'a file with the owner\'s password'
complete -c vtpmctl -n '__vtpmctl_at "identity"' -l owner-password-fd -x -d 'an open descriptor with the owner\'s password'
complete -c vtpmctl -n '__vtpmctl_at "identity"' -l owner-password-credential -x -d 'a systemd credential with the owner\'s password'
complete -c vtpmctl -n '__vtpmctl_at "identity"' -o pwdo -x -d 'the owner\'s password itself, which all users can then see'
complete -c vtpmctl -n '__vtpmctl_at "identity" 0' -a '(__vtpmctl_instances)' -d 'NAME'
complete -c vtpmctl -n '__vtpmctl_at "identity" 0; and __vtpmctl_is_path' -F
complete -c vtpmctl -n '__vtpmctl_at "ca"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "ca"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "ca" 0' -a show -d 'show the certificates of the CA and what signs for it'
complete -c vtpmctl -n '__vtpmctl_at "ca" 0' -a create -d 'make the CA now, if there is none; else the first TPM that needs it does'
complete -c vtpmctl -n '__vtpmctl_at "ca" 0' -a export -d 'write the root certificate, which verifiers need, in PEM'
complete -c vtpmctl -n '__vtpmctl_at "ca" 0' -a import -d 'let an issuer of your own sign, in place of a CA that is made here'
complete -c vtpmctl -n '__vtpmctl_at "ca show"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "ca show"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "ca show"' -l ca -x -a '(__fish_complete_directories)' -d 'the CA\'s directory (default /var/lib/vtpm-ca)'
complete -c vtpmctl -n '__vtpmctl_at "ca create"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "ca create"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "ca create"' -l ca -x -a '(__fish_complete_directories)' -d 'the CA\'s directory (default /var/lib/vtpm-ca)'
complete -c vtpmctl -n '__vtpmctl_at "ca export"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "ca export"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "ca export"' -l chain -d 'all certificates, from the issuer\'s to the root\'s'
complete -c vtpmctl -n '__vtpmctl_at "ca export"' -l output -r -F -d 'to this file, which is replaced as a whole'
complete -c vtpmctl -n '__vtpmctl_at "ca export"' -l ca -x -a '(__fish_complete_directories)' -d 'the CA\'s directory (default /var/lib/vtpm-ca)'
complete -c vtpmctl -n '__vtpmctl_at "ca import"' -l help -d 'show the help'
complete -c vtpmctl -n '__vtpmctl_at "ca import"' -l json -d 'print JSON'
complete -c vtpmctl -n '__vtpmctl_at "ca import"' -l key -r -F -d 'the issuer\'s key, PEM, not encrypted'
complete -c vtpmctl -n '__vtpmctl_at "ca import"' -l signer -x -d 'a command that signs what it reads, in place of a key'
complete -c vtpmctl -n '__vtpmctl_at "ca import"' -l force -d 'replace the CA that is there, and keep it aside'
complete -c vtpmctl -n '__vtpmctl_at "ca import"' -l ca -x -a '(__fish_complete_directories)' -d 'the CA\'s directory (default /var/lib/vtpm-ca)'
complete -c vtpmctl -n '__vtpmctl_at "ca import" 0' -F
