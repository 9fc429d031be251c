// node-routes: on every node, a route to the pods of every other node of the cluster. With it the distribution's
// simple CNI plug-ins (ptp, host-local) make a whole pod network, since all nodes of a kind cluster share one link.
package main

import (
	"fmt"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/vishvananda/netlink"
	core "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// Routes are written anew this often although nothing changed: somebody may have flushed them.
const resync = 30 * time.Second

func newNodeRoutesCommand() *cobra.Command {
	return &cobra.Command{
		Use:          "node-routes",
		Short:        "Keeps a route to the pods of every other node; NODE_NAME says which node this is",
		SilenceUsage: true,
		RunE:         func(command *cobra.Command, _ []string) error { return keepRoutes(os.Getenv("NODE_NAME"), command) },
	}
}

func keepRoutes(self string, command *cobra.Command) error {
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	seen := func(object any) {
		node, ok := object.(*core.Node)
		if !ok || node.Name == self {
			return
		}
		if err := route(node); err != nil {
			fmt.Fprintf(os.Stderr, "route to the pods of %s: %v\n", node.Name, err)
		}
	}
	factory := informers.NewSharedInformerFactory(client, resync)
	handler := cache.ResourceEventHandlerFuncs{AddFunc: seen, UpdateFunc: func(_, object any) { seen(object) }}
	if _, err := factory.Core().V1().Nodes().Informer().AddEventHandler(handler); err != nil {
		return err
	}
	factory.Start(command.Context().Done())
	<-command.Context().Done()
	return nil
}

func route(node *core.Node) error {
	var gateway net.IP
	for _, address := range node.Status.Addresses {
		if address.Type == core.NodeInternalIP && gateway == nil {
			gateway = net.ParseIP(address.Address)
		}
	}
	_, pods, err := net.ParseCIDR(node.Spec.PodCIDR)
	if err != nil || gateway == nil {
		return nil // the node is not complete yet: the next update brings what is missing
	}
	return netlink.RouteReplace(&netlink.Route{Dst: pods, Gw: gateway})
}
