"""The small renderer of Go templates against what Go 1.27's text/template gives for the same."""

import pytest

from ftune.merge.gguf.go_template import render_go

VALUES = {
    "System": "S",
    "Messages": [
        {"Role": "user", "Content": "U {{ end }}"},
        {"Role": "assistant", "Content": ""},
        {"Role": "tool", "Content": "T"},
    ],
}

SAME_AS_GO = {
    "a {{ .System }}\n{{- .System }} b": "a SS b",
    " {{- .System }} ": "S ",
    '{{ "}} {{ \\"x\\" \\n" }}{{ .System }}': '}} {{ "x" \nS',
    '{{ range $i, $_ := .Messages }}{{ if $i }}i{{ else if eq .Role "user" }}u{{ else }}-\n{{- end }}{{ end }}': "uii",
    '{{ $s := .System }}{{ range $i, $_ := .Messages }}{{ if $s }}<{{ $s }}>{{ $s = "" }}{{ end }}.{{ end }}': "<S>...",
    "{{ range $i, $m := .Messages }}{{ if $i }}{{ $m.Role }}{{ else }}1{{ end }} {{ end }}": "1 assistant tool ",
    "{{ range $i, $_ := .Messages }}{{ if eq (len (slice $.Messages $i)) 1 }}last{{ end }}{{ end }}": "last",
    '{{ range $i, $_ := .Messages }}{{ if and .Content (ne .Role "user") }}{{ $.System }}{{ end }}{{ end }}': "S",
    "{{ if not .System }}no{{ else if .Messages }}{{ if .System }}both{{ end }}{{ end }}": "both",
    "{{ range $i, $_ := .Messages }}{{ if .Content }}{{ .Content }};{{ end }}{{ end }}": "U {{ end }};T;",
}


@pytest.mark.parametrize("template", SAME_AS_GO)
def test_it_renders_as_go_does(template: str) -> None:
    assert render_go(template, VALUES) == SAME_AS_GO[template]


@pytest.mark.parametrize(
    "template",
    [
        "{{ if .System }}",
        "{{ end }}",
        "{{ printf .System }}",
        "{{ $nobody }}",
        "{{ with .System }}{{ . }}{{ end }}",
        "{{ range .Messages }}{{ end }}",
        "{{ len .Messages }}",
        "{{ (.System)) }}",
    ],
)
def test_what_it_does_not_know_is_an_error(template: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        render_go(template, VALUES)
