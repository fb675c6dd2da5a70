package catalogue

import "time"

// awsArgs are common to the RDS functions. The documentation of
// credentialsSource says serviceaccount, the code eks_service_account.
type awsArgs struct {
	CredentialsSource string `arg:"credentialsSource" enum:"profile|secret|serviceaccount|eks_service_account" doc:"Where the AWS credentials come from"`
	CredentialsSecret string `arg:"credentialsSecret" doc:"Secret with the AWS credentials"`
	Region            string `arg:"region" doc:"AWS region; the profile's where there is none"`
}

type podMeta struct {
	PodAnnotations map[string]string `arg:"podAnnotations" doc:"Annotations of the pod"`
	PodLabels      map[string]string `arg:"podLabels" doc:"Labels of the pod"`
}

func kanisterRDS() []Function {
	return []Function{
		with(planned("rds", "CreateRDSSnapshot", "Takes a snapshot of an RDS instance or Aurora cluster.", struct {
			InstanceID string `arg:"instanceID,required" doc:"Instance or cluster"`
			DBEngine   string `arg:"dbEngine" doc:"aurora, aurora-mysql or aurora-postgresql for a cluster"`
		}{}, Function{Cut: true, Outputs: outputs("snapshotID", "Id of the snapshot", "instanceID", "Id of the instance", "securityGroupID", "Security groups, as YAML", "allocatedStorage", "Such as 20GiB", "dbSubnetGroup", "Subnet group"), Timeout: 6 * time.Hour}), awsArgs{}),
		with(with(planned("rds", "ExportRDSSnapshotToLocation", "Dumps a snapshot, from a temporary instance, to the location profile.", struct {
			Namespace       string `arg:"namespace,required" doc:"Namespace of the pod made for it"`
			InstanceID      string `arg:"instanceID,required" doc:"Instance that the snapshot is of"`
			SnapshotID      string `arg:"snapshotID,required" doc:"Id of the snapshot"`
			DBEngine        string `arg:"dbEngine,required" enum:"PostgreSQL" doc:"Kind of database"`
			Username        string `arg:"username" doc:"User of the database"`
			Password        string `arg:"password" doc:"Password of the user"`
			Prefix          string `arg:"backupArtifactPrefix" doc:"Path in the location"`
			Databases       any    `arg:"databases" type:"list" doc:"Databases to dump; all where there is none"`
			SecurityGroupID any    `arg:"securityGroupID" type:"any" doc:"Security groups of the temporary instance"`
			DBSubnetGroup   string `arg:"dbSubnetGroup" doc:"Subnet group of the temporary instance"`
			Image           string `arg:"image" doc:"Image with the tools (documented; Kanister's code refuses it)"`
		}{}, Function{OpenOutputs: true, Outputs: outputs("snapshotID", "Id of the snapshot", "instanceID", "Id of the instance", "backupID", "Name of the dump", "securityGroupID", "Security groups, as YAML"), Timeout: dataCall}), podMeta{}), awsArgs{}),
		with(with(planned("rds", "RestoreRDSSnapshot", "Restores an RDS instance from a snapshot or a dump. A restore from a snapshot deletes the live instance first.", struct {
			InstanceID      string `arg:"instanceID,required" doc:"Instance to restore"`
			SnapshotID      string `arg:"snapshotID" doc:"Id of the snapshot; without it a dump is restored"`
			DBEngine        string `arg:"dbEngine" doc:"Kind of database"`
			Prefix          string `arg:"backupArtifactPrefix" doc:"Path of the dump in the location"`
			BackupID        string `arg:"backupID" doc:"Name of the dump"`
			Username        string `arg:"username" doc:"User of the database"`
			Password        string `arg:"password" doc:"Password of the user"`
			Namespace       string `arg:"namespace" doc:"Namespace of the pod made for it"`
			SecurityGroupID any    `arg:"securityGroupID" type:"any" doc:"Security groups of the instance"`
			DBSubnetGroup   string `arg:"dbSubnetGroup" doc:"Subnet group of the instance"`
			Image           string `arg:"image" doc:"Image with the tools (documented; Kanister's code refuses it)"`
		}{}, Function{Outputs: outputs("endpoint", "Endpoint of the instance, of a restore from a dump only"), Timeout: dataCall}), podMeta{}), awsArgs{}),
		with(planned("rds", "DeleteRDSSnapshot", "Deletes a snapshot of an RDS instance or Aurora cluster.", struct {
			SnapshotID string `arg:"snapshotID,required" doc:"Id of the snapshot"`
			DBEngine   string `arg:"dbEngine" doc:"aurora, aurora-mysql or aurora-postgresql for a cluster"`
		}{}, Function{Idempotent: true, Timeout: time.Hour}), awsArgs{}),
	}
}

// kanisterKopia are the functions of the Kopia repository server, public up to
// Kanister 0.119.0.
func kanisterKopia() []Function {
	return []Function{
		planned("kopia", "BackupDataUsingKopiaServer", "Copies a path of a pod's container to the repository server.", struct {
			Namespace string `arg:"namespace,required" doc:"Namespace of the pod"`
			Pod       string `arg:"pod,required" doc:"Name of the pod"`
			Container string `arg:"container,required" doc:"Container with the tools"`
			Include   string `arg:"includePath,required" doc:"Path to copy"`
			Tags      string `arg:"snapshotTags" doc:"Tags of the snapshot, key:value separated by commas"`
			Hostname  string `arg:"repositoryServerUserHostname" doc:"Host name of the server's user"`
		}{}, Function{Cut: true, Outputs: outputs("backupID", "Id of the snapshot", "size", "Size of the data", "phySize", "Bytes added to the repository"), Timeout: dataCall}),
		with(planned("kopia", "RestoreDataUsingKopiaServer", "Writes a snapshot of the repository server back into volumes. Give pod or volumes.", struct {
			Namespace   string            `arg:"namespace,required" doc:"Namespace of the claims"`
			Image       string            `arg:"image,required" doc:"Image with the tools"`
			Backup      string            `arg:"backupIdentifier,required" doc:"Id of the snapshot"`
			RestorePath string            `arg:"restorePath,required" doc:"Where to write"`
			Pod         string            `arg:"pod" doc:"Pod whose volumes are mounted"`
			Volumes     map[string]string `arg:"volumes" doc:"Claim to mount path"`
			PodOverride any               `arg:"podOverride" type:"object" doc:"Parts of the pod's spec, merged into it"`
			Hostname    string            `arg:"repositoryServerUserHostname" doc:"Host name of the server's user"`
		}{}, Function{Idempotent: true, Timeout: dataCall}), podMeta{}),
		with(planned("kopia", "DeleteDataUsingKopiaServer", "Deletes a snapshot from the repository server.", struct {
			Namespace string `arg:"namespace,required" doc:"Namespace of the pod made for it"`
			Image     string `arg:"image,required" doc:"Image with the tools"`
			BackupID  string `arg:"backupID,required" doc:"Id of the snapshot"`
			Hostname  string `arg:"repositoryServerUserHostname" doc:"Host name of the server's user"`
		}{}, Function{Idempotent: true, Timeout: dataCall}), podMeta{}),
	}
}
