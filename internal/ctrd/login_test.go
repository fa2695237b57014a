package ctrd

import (
	"testing"

	"kukeon.io/kukeon-reconciler/internal/state"
)

func TestACredentialIsForOneRegistryOrForThatOfTheImage(t *testing.T) {
	l := login{registry: "docker.io", asked: map[string]string{}, credentials: []state.Credential{
		{Username: "any", Password: "1"},
		{Server: "quay.io", Username: "quay", Password: "2"},
		{Server: "docker.io", Username: "docker", Password: "3"},
		{Server: "broken.example.com", Username: "x", PasswordFile: "/nowhere/at/all"},
	}}
	for host, want := range map[string]string{
		"registry-1.docker.io": "docker", "docker.io": "docker", "quay.io": "quay", "mirror.local:5000": "", "auth.docker.io": "",
	} {
		user, password, err := l.at(host)
		if user != want || err != nil || (password == "") != (user == "") {
			t.Errorf("%s: %q %v", host, user, err)
		}
	}
	if _, _, err := l.at("broken.example.com"); err == nil {
		t.Error("a password that cannot be read is no error")
	}
	l.registry = "ghcr.io"
	if user, _, err := l.at("ghcr.io"); user != "any" || err != nil {
		t.Errorf("%q %v", user, err)
	}
}
