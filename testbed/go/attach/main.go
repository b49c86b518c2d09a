// Attach is the last plugin of the built-in cluster's CNI chain. It gives pods the further interfaces they ask for with
// the annotation k8s.v1.cni.cncf.io/networks, as Multus does: it reads each NetworkAttachmentDefinition, runs the plugins
// its configuration names, and writes what came of it into the annotation k8s.v1.cni.cncf.io/network-status.
//
// containerd hands the pod's annotations over, so pods that ask for nothing cost no request. What was attached is noted
// in a file, because a definition may have changed or gone by the time the pod goes.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	requestKey  = "k8s.v1.cni.cncf.io/networks"
	statusKey   = "k8s.v1.cni.cncf.io/network-status"
	definitions = "/apis/k8s.cni.cncf.io/v1/namespaces/%s/network-attachment-definitions/%s"
	notes       = "/run/cni-attach"
	version     = "1.0.0"
)

type object = map[string]any

// config is this plugin's own entry in the chain.
type config struct {
	Server        string          `json:"server"`
	Files         string          `json:"files"` // ca.crt, attach.crt, attach.key
	PrevResult    json.RawMessage `json:"prevResult"`
	RuntimeConfig struct {
		Annotations map[string]string `json:"io.kubernetes.cri.pod-annotations"`
	} `json:"runtimeConfig"`
}

// request is one entry of the annotation.
type request struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	Interface string `json:"interface"`
	MAC       string `json:"mac"`
}

// attachment is what is noted for the way back: the configurations of the plugins in the order they ran.
type attachment struct {
	Interface string   `json:"interface"`
	Plugins   []object `json:"plugins"`
}

type result struct {
	Interfaces []struct {
		Name    string `json:"name"`
		MAC     string `json:"mac"`
		Sandbox string `json:"sandbox"`
	} `json:"interfaces"`
	IPs []struct {
		Address string `json:"address"`
	} `json:"ips"`
}

type status struct {
	Name      string   `json:"name"`
	Interface string   `json:"interface"`
	IPs       []string `json:"ips"`
	MAC       string   `json:"mac"`
	Default   bool     `json:"default"`
	DNS       object   `json:"dns"`
}

func main() {
	if err := run(os.Getenv("CNI_COMMAND")); err != nil {
		json.NewEncoder(os.Stdout).Encode(object{"cniVersion": version, "code": 100, "msg": err.Error()})
		os.Exit(1)
	}
}

func run(command string) error {
	var conf config
	switch command {
	case "VERSION":
		return json.NewEncoder(os.Stdout).Encode(object{"cniVersion": version, "supportedVersions": []string{version}})
	case "ADD", "DEL":
		if err := json.NewDecoder(os.Stdin).Decode(&conf); err != nil {
			return fmt.Errorf("configuration: %w", err)
		}
	default:
		return nil
	}
	if command == "DEL" {
		return detachAll()
	}
	if wanted := conf.RuntimeConfig.Annotations[requestKey]; wanted != "" {
		if err := attachAll(conf, wanted); err != nil {
			return errors.Join(err, detachAll())
		}
	}
	_, err := os.Stdout.Write(conf.PrevResult)
	return err
}

func attachAll(conf config, text string) error {
	words := arguments()
	requests, err := parse(text, words["K8S_POD_NAMESPACE"])
	if err != nil {
		return err
	}
	api, err := connect(conf)
	if err != nil {
		return err
	}
	var made []attachment
	found := []status{describe("testbed", os.Getenv("CNI_IFNAME"), conf.PrevResult, true)}
	for _, wanted := range requests {
		plugins, err := api.plugins(wanted)
		if err != nil {
			return err
		}
		made = append(made, attachment{wanted.Interface, plugins})
		if err := note(made); err != nil { // before it is made: half an attachment is taken away too
			return err
		}
		answer, err := add(made[len(made)-1])
		if err != nil {
			return fmt.Errorf("%s/%s as %s: %w", wanted.Namespace, wanted.Name, wanted.Interface, err)
		}
		found = append(found, describe(wanted.Namespace+"/"+wanted.Name, wanted.Interface, answer, false))
	}
	if err := note(made); err != nil {
		return err
	}
	report, _ := json.Marshal(found)
	patch := object{"metadata": object{"annotations": object{statusKey: string(report)}}}
	return api.do("PATCH", fmt.Sprintf("/api/v1/namespaces/%s/pods/%s", words["K8S_POD_NAMESPACE"], words["K8S_POD_NAME"]), patch, nil)
}

// parse reads both forms: "name, namespace/name@interface" and a JSON array.
func parse(text, namespace string) ([]request, error) {
	var requests []request
	if strings.HasPrefix(strings.TrimSpace(text), "[") {
		if err := json.Unmarshal([]byte(text), &requests); err != nil {
			return nil, fmt.Errorf("annotation %s: %w", requestKey, err)
		}
	} else {
		for _, word := range strings.Split(text, ",") {
			var wanted request
			word, wanted.Interface, _ = strings.Cut(strings.TrimSpace(word), "@")
			if space, name, both := strings.Cut(word, "/"); both {
				wanted.Namespace, wanted.Name = space, name
			} else {
				wanted.Name = word
			}
			requests = append(requests, wanted)
		}
	}
	for i := range requests {
		if requests[i].Namespace == "" {
			requests[i].Namespace = namespace
		}
		if requests[i].Interface == "" {
			requests[i].Interface = fmt.Sprintf("net%d", i+1)
		}
	}
	return requests, nil
}

func add(wanted attachment) (json.RawMessage, error) {
	var answer json.RawMessage
	for _, plugin := range wanted.Plugins {
		if answer != nil {
			plugin["prevResult"] = answer
		}
		output, err := execute("ADD", wanted.Interface, plugin)
		if err != nil {
			return nil, err
		}
		answer = output
	}
	for _, plugin := range wanted.Plugins {
		plugin["prevResult"] = answer // what DEL is to be given
	}
	return answer, nil
}

func detachAll() error {
	content, err := os.ReadFile(notePath())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var made []attachment
	if err := errors.Join(err, json.Unmarshal(content, &made)); err != nil {
		return err
	}
	for _, one := range slices.Backward(made) {
		for _, plugin := range slices.Backward(one.Plugins) {
			if _, err := execute("DEL", one.Interface, plugin); err != nil {
				return err
			}
		}
	}
	return os.Remove(notePath())
}

// execute runs one plugin on one interface; everything else it needs is in the environment already.
func execute(command, device string, plugin object) (json.RawMessage, error) {
	input, _ := json.Marshal(plugin)
	kind, _ := plugin["type"].(string)
	for _, folder := range filepath.SplitList(os.Getenv("CNI_PATH")) {
		path := filepath.Join(folder, filepath.Base(kind))
		if _, err := os.Stat(path); err != nil {
			continue
		}
		var output bytes.Buffer
		run := exec.Command(path)
		run.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_IFNAME="+device)
		run.Stdin, run.Stdout, run.Stderr = bytes.NewReader(input), &output, os.Stderr
		if err := run.Run(); err != nil {
			return nil, fmt.Errorf("%s %s: %w: %s", kind, command, err, output.String())
		}
		return output.Bytes(), nil
	}
	return nil, fmt.Errorf("no plugin %q in %s", kind, os.Getenv("CNI_PATH"))
}

func describe(name, device string, answer json.RawMessage, first bool) status {
	var found result
	json.Unmarshal(answer, &found)
	is := status{Name: name, Interface: device, IPs: []string{}, Default: first, DNS: object{}}
	for _, ip := range found.IPs {
		address, _, _ := strings.Cut(ip.Address, "/")
		is.IPs = append(is.IPs, address)
	}
	for _, one := range found.Interfaces {
		if one.Name == device && one.Sandbox != "" {
			is.MAC = one.MAC
		}
	}
	return is
}

func arguments() map[string]string {
	words := map[string]string{}
	for _, pair := range strings.Split(os.Getenv("CNI_ARGS"), ";") {
		key, value, _ := strings.Cut(pair, "=")
		words[key] = value
	}
	return words
}

func notePath() string {
	return filepath.Join(notes, filepath.Base(os.Getenv("CNI_CONTAINERID"))+".json")
}

func note(made []attachment) error {
	content, _ := json.Marshal(made)
	return errors.Join(os.MkdirAll(notes, 0o700), os.WriteFile(notePath(), content, 0o600))
}

// apiServer is the API server and how to prove who we are.
type apiServer struct {
	address string
	client  http.Client
}

func connect(conf config) (*apiServer, error) {
	authority, err := os.ReadFile(filepath.Join(conf.Files, "ca.crt"))
	pair, second := tls.LoadX509KeyPair(filepath.Join(conf.Files, "attach.crt"), filepath.Join(conf.Files, "attach.key"))
	if err := errors.Join(err, second); err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}}
	return &apiServer{conf.Server, http.Client{Transport: transport, Timeout: 10 * time.Second}}, nil
}

func (api *apiServer) do(method, path string, body, into any) error {
	content, _ := json.Marshal(body)
	request, err := http.NewRequest(method, api.address+path, bytes.NewReader(content))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/merge-patch+json")
	answer, err := api.client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, text)
	}
	if err != nil || into == nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// plugins are the configurations a definition names, each as its plugin wants it.
func (api *apiServer) plugins(wanted request) ([]object, error) {
	var definition struct {
		Spec struct {
			Config string `json:"config"`
		} `json:"spec"`
	}
	if err := api.do("GET", fmt.Sprintf(definitions, wanted.Namespace, wanted.Name), nil, &definition); err != nil {
		return nil, err
	}
	var chain object
	if err := json.Unmarshal([]byte(definition.Spec.Config), &chain); err != nil {
		return nil, fmt.Errorf("%s/%s: spec.config: %w", wanted.Namespace, wanted.Name, err)
	}
	plugins := []object{chain}
	if listed, isList := chain["plugins"].([]any); isList {
		plugins = nil
		for _, one := range listed {
			plugin, _ := one.(object)
			plugins = append(plugins, plugin)
		}
	}
	for _, plugin := range plugins {
		plugin["cniVersion"] = version
		plugin["name"] = chain["name"]
		if plugin["name"] == nil {
			plugin["name"] = wanted.Name
		}
		if wanted.MAC != "" {
			plugin["runtimeConfig"] = object{"mac": wanted.MAC}
		}
	}
	return plugins, nil
}
