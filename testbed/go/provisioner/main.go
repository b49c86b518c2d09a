// Provisioner turns PersistentVolumeClaims of the testbed's default StorageClass into folders on the node that the
// scheduler chose. It runs on the host, where every node's file system is a folder; the product never uses it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

const name = "berth.dev/testbed-volumes"

// folders makes and removes volumes: nodes is the host's folder with one root per node, inside is where the volumes lie
// on each of them.
type folders struct {
	nodes, inside string
}

func (f folders) path(node, volume string) string {
	return filepath.Join(f.nodes, node, f.inside, volume)
}

// Provision makes the folder first and describes it afterwards, so a volume that exists always has its folder.
func (f folders) Provision(_ context.Context, wanted controller.ProvisionOptions) (*core.PersistentVolume, controller.ProvisioningState, error) {
	node := wanted.SelectedNodeName
	if node == "" {
		return nil, controller.ProvisioningFinished, errors.New("no node was chosen: the StorageClass must have volumeBindingMode WaitForFirstConsumer")
	}
	folder := f.path(node, wanted.PVName)
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	// Pods run under any user; the umask must not shut them out.
	if err := os.Chmod(folder, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	return f.describe(wanted, node), controller.ProvisioningFinished, nil
}

func (f folders) describe(wanted controller.ProvisionOptions, node string) *core.PersistentVolume {
	// By label: of a volume's affinity the scheduler looks at the node's labels only, and fields place pods anywhere.
	onNode := core.NodeSelectorTerm{MatchExpressions: []core.NodeSelectorRequirement{
		{Key: core.LabelHostname, Operator: core.NodeSelectorOpIn, Values: []string{node}},
	}}
	return &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: wanted.PVName},
		Spec: core.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *wanted.StorageClass.ReclaimPolicy,
			AccessModes:                   wanted.PVC.Spec.AccessModes,
			Capacity:                      core.ResourceList{core.ResourceStorage: wanted.PVC.Spec.Resources.Requests[core.ResourceStorage]},
			PersistentVolumeSource: core.PersistentVolumeSource{
				Local: &core.LocalVolumeSource{Path: filepath.Join(f.inside, wanted.PVName)},
			},
			NodeAffinity: &core.VolumeNodeAffinity{Required: &core.NodeSelector{NodeSelectorTerms: []core.NodeSelectorTerm{onNode}}},
		},
	}
}

// Delete removes the folder; a path that does not lie where Provision makes them is refused.
func (f folders) Delete(_ context.Context, volume *core.PersistentVolume) error {
	local, affinity := volume.Spec.Local, volume.Spec.NodeAffinity
	if local == nil || affinity == nil || affinity.Required == nil || filepath.Dir(local.Path) != filepath.Clean(f.inside) {
		return fmt.Errorf("volume %s was not made by %s", volume.Name, name)
	}
	node := affinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values[0]
	if node == "" || strings.ContainsAny(node, "/") {
		return fmt.Errorf("volume %s names no node", volume.Name)
	}
	return os.RemoveAll(f.path(node, filepath.Base(local.Path)))
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "how to reach the API server")
	nodes := flag.String("nodes", "", "the host's folder with one root folder per node")
	inside := flag.String("folder", "", "where volumes lie on a node")
	health := flag.String("health", "", "address of the health endpoint")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, *kubeconfig, *health, folders{*nodes, *inside}); err != nil {
		klog.ErrorS(err, "provisioner ends")
		os.Exit(1)
	}
}

func run(ctx context.Context, kubeconfig, health string, volumes folders) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	http.HandleFunc("/healthz", func(answer http.ResponseWriter, _ *http.Request) { answer.WriteHeader(http.StatusOK) })
	go func() {
		if err := http.ListenAndServe(health, nil); err != nil {
			klog.ErrorS(err, "the health endpoint cannot be served", "address", health)
		}
	}()
	controller.NewProvisionController(ctx, client, name, volumes, controller.LeaderElection(false)).Run(ctx)
	return nil
}
